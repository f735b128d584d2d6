"""What is deployed: units and manifests that their own checkers accept."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isotherm.daemon.config import parse_config
from isotherm.daemon.permitted import NEEDED

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = DEPLOY / "kubernetes/isotherm.yaml"


def documents() -> list[dict[str, Any]]:
    """Return the manifests."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is missing")
    return list(yaml.safe_load_all(MANIFESTS.read_text()))


def of_kind(kind: str) -> dict[str, Any]:
    """Return the only manifest of a kind."""
    (found,) = [one for one in documents() if one["kind"] == kind]
    return found


def pod_spec() -> dict[str, Any]:
    """Return the pods' specification."""
    return of_kind("DaemonSet")["spec"]["template"]["spec"]


def container(name: str) -> dict[str, Any]:
    """Return one of the two containers."""
    return next(one for one in pod_spec()["containers"] if one["name"] == name)


@pytest.mark.slow
@pytest.mark.parametrize("at", range(len(documents())))
def test_manifests_are_of_their_schema(at: int) -> None:
    """As the API server of a present version would have them, no key misspelt."""
    checker = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is missing"
    )
    checker.validate(documents()[at], checker.latest_version(), strict=True)


def test_a_misspelt_key_is_found() -> None:
    """The checker is strict: this one is not accepted."""
    checker = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is missing"
    )
    wrong = of_kind("DaemonSet")
    wrong["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(checker.ValidationError, match="hostPid"):
        checker.validate(wrong, checker.latest_version(), strict=True)


def test_the_pod_has_no_more_rights_than_it_needs() -> None:
    """Not privileged, all capabilities dropped but those that a run checks for."""
    context = container("isotherm")["securityContext"]
    assert not context["privileged"]
    assert not context["allowPrivilegeEscalation"]
    assert context["readOnlyRootFilesystem"]
    assert ["ALL"] == context["capabilities"]["drop"]
    needed = {name.removeprefix("CAP_") for name in NEEDED}
    split = {"SETUID", "SETGID", "SETPCAP", "CHOWN", "KILL"}
    others = {"PERFMON", "DAC_READ_SEARCH"}
    assert needed | others | split == set(context["capabilities"]["add"])
    mounts = {mount["name"]: mount for mount in container("isotherm")["volumeMounts"]}
    writable = {name for name, mount in mounts.items() if not mount.get("readOnly")}
    assert {"run", "scratch"} == writable


def test_its_configuration_is_one() -> None:
    """The daemon would accept it."""
    text = of_kind("ConfigMap")["data"]["isotherm.toml"]
    config = parse_config(text, "ConfigMap")
    port = config.metrics.listen.rpartition(":")[2]
    assert int(port) == container("isotherm")["ports"][0]["containerPort"]
    path = Path(config.target.pods)
    assert {str(path.parent)} == {
        mount["mountPath"]
        for name in ("isotherm", "pods")
        for mount in container(name)["volumeMounts"]
        if mount["name"] == "pods"
    }
    assert ["pods", "watch", str(path)] == container("pods")["args"]


def test_nobody_has_both_the_host_and_the_account() -> None:
    """Who moves memory has no token; who has the token has no right on the host."""
    assert not pod_spec()["automountServiceAccountToken"]
    assert not of_kind("ServiceAccount")["automountServiceAccountToken"]
    holders = [
        one["name"]
        for one in pod_spec()["containers"]
        if any(mount["name"] == "account" for mount in one["volumeMounts"])
    ]
    assert ["pods"] == holders
    watcher = container("pods")
    context = watcher["securityContext"]
    assert context["runAsNonRoot"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert {"drop": ["ALL"]} == context["capabilities"]
    assert {"pods", "account"} == {mount["name"] for mount in watcher["volumeMounts"]}
    hosts = {v["name"] for v in pod_spec()["volumes"] if "hostPath" in v}
    assert not hosts & {mount["name"] for mount in watcher["volumeMounts"]}


def test_the_account_may_read_pods_and_nothing_else() -> None:
    """Two verbs on one resource, for this account alone."""
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
    assert rules == of_kind("ClusterRole")["rules"]
    binding = of_kind("ClusterRoleBinding")
    assert of_kind("ClusterRole")["metadata"]["name"] == binding["roleRef"]["name"]
    (subject,) = binding["subjects"]
    account = of_kind("ServiceAccount")["metadata"]
    assert (account["name"], account["namespace"]) == (
        subject["name"],
        subject["namespace"],
    )
    assert account["name"] == pod_spec()["serviceAccountName"]


def unit(tmp_path: Path) -> Path:
    """Return the unit with a program that is there."""
    path = tmp_path / "isotherm.service"
    program = Path(sys.executable).with_name("isotherm")
    text = (DEPLOY / "systemd/isotherm.service").read_text()
    path.write_text(text.replace("/usr/local/bin/isotherm", str(program)))
    return path


def unit_bounds() -> list[str]:
    """Return the capabilities of the unit."""
    text = (DEPLOY / "systemd/isotherm.service").read_text()
    return [
        name
        for line in text.splitlines()
        if line.startswith("CapabilityBoundingSet=")
        for name in line.partition("=")[2].split()
    ]


def pod_bounds() -> list[str]:
    """Return the capabilities of the container that moves."""
    context = container("isotherm")["securityContext"]
    return [f"CAP_{name}" for name in context["capabilities"]["add"]]


#: Looks into another user's process, becomes that user in a child, ends the child.
SPLIT = """
import os, signal, sys
from isotherm.mover.drop import drop, find_user
os.close(os.open(f"/proc/{sys.argv[1]}/pagemap", os.O_RDONLY))
os.open(f"/proc/{sys.argv[1]}/maps", os.O_RDONLY)
reads, writes = os.pipe()
parent, child = os.getpid(), os.fork()
if child == 0:
    drop(find_user(sys.argv[2]), parent, (writes,))
    os.write(writes, b"dropped")
    signal.pause()
os.close(writes)
assert os.read(reads, 7) == b"dropped"
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


@pytest.mark.parametrize("bounds", [unit_bounds, pod_bounds])
def test_the_capabilities_are_enough(bounds: Callable[[], list[str]]) -> None:
    """For processes of other users, and to become two: with these and no other."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.geteuid() != 0:
        pytest.skip("setpriv and root are needed to give capabilities up")
    only = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in bounds())
    other = subprocess.Popen(
        [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "60"]
    )
    try:
        done = subprocess.run(
            [
                *(setpriv, f"--bounding-set=-all,{only}", "--inh-caps=-all"),
                *(sys.executable, "-c", SPLIT, str(other.pid), "65534"),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
    finally:
        other.kill()
        other.wait()
    assert (0, "") == (done.returncode, done.stderr)


def systemd_analyze(*words: str) -> "subprocess.CompletedProcess[str]":
    """Ask systemd-analyze; skip where it is not."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze on the path")
    return subprocess.run(
        [program, *words], check=False, capture_output=True, text=True
    )


def test_the_unit_is_one(tmp_path: Path) -> None:
    """No unknown key, no wrong value, no program that is not there."""
    done = systemd_analyze("verify", "--man=no", str(unit(tmp_path)))
    said = [line for line in done.stderr.splitlines() if "isotherm.service" in line]
    assert [] == said


def test_a_wrong_key_of_the_unit_is_found(tmp_path: Path) -> None:
    """The check above can fail."""
    path = unit(tmp_path)
    path.write_text(path.read_text().replace("UMask=", "UMaskk="))
    done = systemd_analyze("verify", "--man=no", str(path))
    assert "UMaskk" in done.stderr


def test_the_unit_is_hardened(tmp_path: Path) -> None:
    """Below 4 of 10 as systemd rates exposure, with the capabilities it must have."""
    done = systemd_analyze("security", "--offline=true", str(unit(tmp_path)))
    (line,) = [x for x in done.stdout.splitlines() if "Overall exposure level" in x]
    assert float(line.split(":")[1].split()[0]) < 4.0
    bounds = unit_bounds()
    assert set(NEEDED) <= set(bounds)
    # No way around files' owners and modes but to read, and no network of its own.
    assert not {"CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_NET_ADMIN"} & set(bounds)
