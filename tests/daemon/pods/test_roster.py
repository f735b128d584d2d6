"""Pods as tenants: who has which terms, and what changes when pods come and go."""

from pathlib import Path

import numpy as np
import pytest

from isotherm.cli.main import main
from isotherm.daemon.config import PodsConfig
from isotherm.daemon.pods.book import Pod, write_book
from isotherm.daemon.pods.cgroups import PodGroup, Qos
from isotherm.daemon.pods.live import LivePods
from isotherm.daemon.pods.roster import UNKNOWN, Roster, derive_states
from isotherm.machine.protocol import Space
from isotherm.machine.sim.spec import load_machine
from isotherm.policy.isotherm import Isotherm
from isotherm.policy.plan import Setup
from isotherm.policy.tenants import MOST_TENANTS

from .conftest import DB, JOB, STATIC, WEB, group, slice_of

FAST_BYTES = 1000 * 4096
ANY = PodsConfig(guarantees_percent=100.0)


def pod(uid: str, name: str, created: str = "2026", **annotations: str) -> Pod:
    """Return a pod with our annotations."""
    named = {
        f"isotherm.io/{key.replace('_', '-')}": text
        for key, text in annotations.items()
    }
    return Pod(uid=uid, namespace="a", name=name, created=created, annotations=named)


def groups(*uids: str) -> list[PodGroup]:
    """Return groups of pods."""
    return [PodGroup(uid, Qos.BURSTABLE, Path("/x") / uid) for uid in uids]


def test_who_says_nothing_is_the_rest() -> None:
    """And is left alone where the operator wants only those that say something."""
    (state,) = derive_states(groups("1"), [pod("1", "x")], ANY, FAST_BYTES)
    assert (True, None) == (state.managed, state.tenant)
    only = PodsConfig(only_annotated=True)
    (state,) = derive_states(groups("1"), [pod("1", "x")], only, FAST_BYTES)
    assert not state.managed


def test_nobody_asks_the_server() -> None:
    """Without a file all pods are the rest; with one, those it lacks are left alone."""
    (state,) = derive_states(groups("1"), None, ANY)
    assert state.managed
    (state,) = derive_states(groups("1"), [], ANY)
    assert (False, UNKNOWN) == (state.managed, state.why)


def test_guarantees_go_by_age() -> None:
    """The younger one that would take more than is left has none, and is told so."""
    pods = [pod("1", "new", "2026-2", fast_min="60%", weight="2")]
    pods.append(pod("2", "old", "2026-1", fast_min="60%"))
    new, old = derive_states(groups("1", "2"), pods, ANY, FAST_BYTES)
    assert (0.0, 0.6) == (new.tenant.guarantee.share, old.tenant.guarantee.share)
    assert 2.0 == new.tenant.weight  # the rest of its terms stays
    assert "fast-min is 2.34 MiB; of what this node sets aside" in new.why
    assert old.why is None


def test_guarantees_stay_within_what_is_set_aside() -> None:
    """Of the tier, not of what pods ask for; None: nobody adds up."""
    few = PodsConfig(guarantees_percent=10.0)
    pods = [pod("1", "x", fast_min="20%")]
    (state,) = derive_states(groups("1"), pods, few, FAST_BYTES)
    assert "for pods 400 KiB is left" in state.why
    (state,) = derive_states(groups("1"), pods, few)
    assert state.why is None


def test_a_guarantee_above_its_maximum_is_none() -> None:
    """Told as the annotations are called."""
    pods = [pod("1", "x", fast_min="40%", fast_max="20%")]
    (state,) = derive_states(groups("1"), pods, ANY, FAST_BYTES)
    assert "above its fast-max" in state.why
    assert 0.0 == state.tenant.guarantee.share


def test_so_many_have_terms_and_no_more() -> None:
    """A label is a byte's share: the youngest belong to the rest, and are told so."""
    uids = [f"{at:03}" for at in range(MOST_TENANTS + 2)]
    pods = [pod(uid, f"p{uid}", uid, profile="batch") for uid in uids]
    states = derive_states(groups(*reversed(uids)), pods, ANY, FAST_BYTES)
    without = {state.group.uid for state in states if state.tenant is None}
    assert set(uids[-2:]) == without
    assert all("older pods" in s.why for s in states if s.tenant is None)


def test_the_roster_follows_groups_and_file(systemd: Path) -> None:
    """Nothing changes, nothing is new; a file that is wrong leaves what was known."""
    path = systemd / "pods.json"
    roster = Roster(path, ANY, systemd)
    assert {"terms": 0, "rest": 0, "left-alone": 0, "unknown": 4} == roster.counts()
    assert () == roster.found().directories
    write_book(path, [pod(DB, "db", profile="latency-critical"), pod(WEB, "web")])
    assert roster.look()
    assert not roster.look()
    found = roster.found()
    assert ("a/db",) == tuple(t.name for t in found.file.tenancy.tenants)
    assert slice_of(systemd / "sys/fs/cgroup", "guaranteed", DB) == found.cgroups[0]
    assert slice_of(systemd / "sys/fs/cgroup", "burstable", WEB) == found.others[0]
    path.write_text("no list")
    assert not roster.look()
    assert found == roster.found()
    path.unlink()
    assert not roster.look()
    assert found == roster.found()
    write_book(path, [pod(JOB, "job", manage="false")])
    assert roster.look()
    assert {"terms": 0, "rest": 0, "left-alone": 1, "unknown": 3} == roster.counts()


class Machine:
    """As much of a host as tenants ask for."""

    topology = load_machine("dram-cxl").topology([1000, 4000])

    def usage(self):
        """Return capacities."""
        return type("Usage", (), {"capacity_pages": np.array([1000, 4000])})


class Service:
    """As much of a service as a renewal asks for."""

    unit_pages = 1
    machine = Machine()

    def __init__(self, tenants) -> None:
        setup = Setup(
            5000,
            Machine.topology,
            np.array([1000, 4000]),
            500_000_000,
            1,
            frozenset(),
            tenancy=tenants.tenancy(1),
        )
        self.gate = type("Gate", (), {"inner": Isotherm(setup)})


def test_tenants_are_renewed_under_a_running_service(systemd: Path) -> None:
    """Labels, terms, the policy's market and who is followed change together."""
    path, followed = systemd / "pods.json", []
    write_book(path, [pod(DB, "db", weight="3"), pod(WEB, "web")])
    live = LivePods(Roster(path, ANY, systemd), Machine(), followed.append)
    service = Service(live.tenants)
    spaces = tuple(
        Space(10 * at, 10, f"pid {pid} x") for at, pid in enumerate((11, 12, 13))
    )
    label = live.tenants.labeller.of(spaces, 30)
    assert [0, 1, 1] == label[::10].tolist()  # db, and the rest
    live.observe(service, None)
    assert [] == followed  # nothing is new
    write_book(
        path,
        [
            pod(JOB, "job", "2025", profile="batch"),
            pod(DB, "db", weight="3"),
            pod(WEB, "web"),
        ],
    )
    live.observe(service, None)
    label = live.tenants.labeller.of(spaces, 30)
    names = service.gate.inner.tenants._tenancy.names
    assert {"a/db", "a/job"} == set(names[:2])
    assert ("(rest)",) == names[2:]
    assert [names.index("a/db"), 2, names.index("a/job")] == label[::10].tolist()
    (dirs,) = followed
    mount = systemd / "sys/fs/cgroup"
    assert {
        slice_of(mount, "guaranteed", DB),
        slice_of(mount, "burstable", WEB),
        slice_of(mount, "besteffort", JOB),
    } == set(dirs)
    assert 3.0 == live.tenants.tenancy(1).tenants[names.index("a/db")].weight
    write_book(path, [])
    live.observe(service, None)
    assert ("(rest)",) == service.gate.inner.tenants._tenancy.names
    assert () == followed[-1]
    assert 0 == live.tenants.labeller.of(spaces, 30).max()


def test_terms_that_this_host_cannot_keep_stop_nobody(systemd: Path) -> None:
    """Kept out of every tier, or bound to the slow one: that part is left out."""
    mount = systemd / "sys/fs/cgroup"
    bound = slice_of(mount, "burstable", WEB)
    (bound / "cpuset.mems.effective").write_text("1\n")
    path = systemd / "pods.json"
    write_book(
        path,
        [pod(DB, "db", keep_out="dram,cxl"), pod(WEB, "web", fast_min="10%")],
    )
    live = LivePods(Roster(path, ANY, systemd), Machine(), lambda _: None)
    terms = {tenant.name: tenant for tenant in live.tenants.tenancy(1).tenants}
    assert frozenset() == terms["a/db"].keep_out
    assert 0.0 == terms["a/web"].guarantee.share
    assert Service(live.tenants).gate.inner.tenants is not None


def test_the_command_shows_them(
    systemd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names, classes, terms, and what is wrong in words; JSON with containers."""
    import json

    path = systemd / "pods.json"
    write_book(path, [pod(DB, "db", profile="batch"), pod(WEB, "web", weight="x")])
    assert 0 == main(["pods", str(path), "--root", str(systemd)])
    said = capsys.readouterr()
    assert "a/db" in said.out
    assert "batch" in said.out
    assert "a/web: isotherm.io/weight: expected a number above 0" in said.err
    assert f"{STATIC}: {UNKNOWN}" in said.err
    assert 0 == main(["pods", str(path), "--root", str(systemd), "--json"])
    rows = {row["uid"]: row for row in json.loads(capsys.readouterr().out)["pods"]}
    assert "batch" == rows[DB]["terms"]["profile"]
    assert ["a" * 64] == rows[DB]["containers"]
    assert 3 == main(["pods", "--root", str(systemd / "nowhere")])


def test_a_node_without_pods_yet(tmp_path: Path) -> None:
    """The kubelet has made its group and nothing in it: the roster waits."""
    group(tmp_path / "sys/fs/cgroup/kubepods.slice")
    group(tmp_path / "sys/fs/cgroup")
    roster = Roster(None, ANY, tmp_path)
    assert () == roster.states
    path = group(slice_of(tmp_path / "sys/fs/cgroup", "burstable", WEB))
    assert roster.look()
    assert (path,) == roster.found().others
