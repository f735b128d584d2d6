"""Pods on a real kernel: control groups as a kubelet makes them, come and go."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isotherm.core.errors import IsothermError
from isotherm.daemon.asking import list_tenants
from isotherm.daemon.pods.book import Pod, write_book
from isotherm.daemon.pods.cgroups import find_pods
from tests.vm.runs import HOT_AND_COLD, LIMIT_S, RUN, Isotherm, finish, pages_on

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("quiet_kernel"),
]
Await = Callable[..., None]

MOUNT = Path("/sys/fs/cgroup")
DB = "0f4a2c8e-1111-4222-8333-0123456789ab"
JOB = "2f4a2c8e-1111-4222-8333-0123456789ab"
ID = 64 * "a"


@pytest.fixture
def pod() -> Iterator[Callable[[str, str], Path]]:
    """Return a function that makes a pod's group, and its container's below it."""
    made: list[Path] = []

    def make(qos: str, uid: str) -> Path:
        name = "kubepods" if qos == "guaranteed" else f"kubepods-{qos}"
        path = MOUNT / "kubepods.slice"
        if qos != "guaranteed":
            path /= f"{name}.slice"
        path /= f"{name}-pod{uid.replace('-', '_')}.slice/cri-containerd-{ID}.scope"
        path.mkdir(parents=True)
        made.append(path)
        return path

    yield make
    for path in made:
        with contextlib.suppress(OSError):
            (path / "cgroup.kill").write_text("1")
        while path.exists() and (path / "cgroup.procs").read_text():
            pass
    for path in sorted((MOUNT / "kubepods.slice").rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
    if made:
        (MOUNT / "kubepods.slice").rmdir()


def rows_of(run: Isotherm) -> dict[str, dict[str, Any]]:
    """Return what a running daemon says of its tenants, by name."""
    assert run.process.poll() is None, run.said
    try:
        return {row["name"]: row for d in list_tenants(RUN) for row in d["tenants"]}
    except IsothermError:  # it does not answer yet
        return {}


def told(uid: str, name: str, **annotations: str) -> Pod:
    """Return what the API server says of a pod."""
    return Pod(
        uid=uid,
        namespace="shop",
        name=name,
        created="2026",
        annotations={
            f"isotherm.io/{key.replace('_', '-')}": text
            for key, text in annotations.items()
        },
    )


def test_pods_become_tenants_and_go(
    pod: Callable[[str, str], Path],
    isotherm: Callable[..., Isotherm],
    start: Callable[..., Any],
    tmp_path: Path,
    await_true: Await,
) -> None:
    """A pod that comes is managed on its terms; one left alone is not; one goes.

    The daemon starts on a node without pods. The hot pages of the first go up, those
    of the pod that is to be left alone stay, until its annotation says otherwise. Both
    are guaranteed as much: a move is dear here, and for less it might not pay.
    """
    (MOUNT / "kubepods.slice").mkdir()
    book = tmp_path / "pods.json"
    write_book(book, [])
    run = isotherm("run", "--pods", str(book), "--json")
    await_true(lambda: "hints=" in run.said or run.process.poll(), "it runs", LIMIT_S)

    words = [sys.executable, "-S", "-E", str(HOT_AND_COLD), "1", "4", "8"]
    scopes = pod("guaranteed", DB), pod("besteffort", JOB)
    targets = []
    for scope in scopes:
        child = start(words)
        hot = int(child.stdout.readline().split()[1])
        (scope / "cgroup.procs").write_text(str(child.pid))
        targets.append((child, hot))
    assert {DB, JOB} == {found.uid for found in find_pods()}
    write_book(
        book,
        [
            told(DB, "db", profile="latency-critical", fast_min="8MiB"),
            told(JOB, "job", manage="false"),
        ],
    )
    (db, hot), (job, other_hot) = targets

    def is_up(pid: int, address: int) -> bool:
        assert run.process.poll() is None, run.said
        return pages_on(pid, address, 0) >= 0.95 * 1024

    await_true(lambda: is_up(db.pid, hot), "the pod's hot pages are up", LIMIT_S)
    assert 0 == pages_on(job.pid, other_hot, 0)
    row = rows_of(run)["shop/db"]
    assert ([db.pid], "latency-critical", 8 << 20) == (
        row["pids"],
        row["profile"],
        row["guarantee_bytes"],
    )
    assert str(scopes[0].parent) == row["cgroup"]
    assert "shop/job" not in rows_of(run)

    def paid() -> int:
        return int(rows_of(run)["shop/db"]["paid_moves"])

    await_true(lambda: paid() > 0, "its moves are charged", LIMIT_S)
    before = paid()

    write_book(
        book,
        [
            told(DB, "db", profile="latency-critical", fast_min="8MiB"),
            told(JOB, "job", profile="batch", fast_min="8MiB"),
        ],
    )
    await_true(lambda: is_up(job.pid, other_hot), "the other's are, too", LIMIT_S)
    assert {"shop/db", "shop/job"} <= rows_of(run).keys()
    assert paid() >= before  # its account goes on

    assert "intact" in finish(db)
    db.wait(LIMIT_S)
    os.rmdir(scopes[0])  # noqa: PTH106  # as a runtime does
    os.rmdir(scopes[0].parent)  # noqa: PTH106  # as a kubelet does
    await_true(lambda: "shop/db" not in rows_of(run), "a pod that goes", LIMIT_S)
    assert "shop/job" in rows_of(run)
    assert "intact" in finish(job)
    run.process.terminate()
    code, out = run.end()
    assert 0 == code, run.said
    assert "pods of this node" == json.loads(out)["target"]
