"""What is deployed: units and manifests that their own checkers accept."""

import shutil
import subprocess
import sys
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
    pod = of_kind("DaemonSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert not context["privileged"]
    assert not context["allowPrivilegeEscalation"]
    assert context["readOnlyRootFilesystem"]
    assert ["ALL"] == context["capabilities"]["drop"]
    needed = {name.removeprefix("CAP_") for name in NEEDED}
    assert needed | {"PERFMON"} == set(context["capabilities"]["add"])
    assert not pod["automountServiceAccountToken"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    writable = {name for name, mount in mounts.items() if not mount.get("readOnly")}
    assert {"run", "scratch"} == writable


def test_its_configuration_is_one() -> None:
    """The daemon would accept it."""
    text = of_kind("ConfigMap")["data"]["isotherm.toml"]
    config = parse_config(text, "ConfigMap")
    port = config.metrics.listen.rpartition(":")[2]
    (container,) = of_kind("DaemonSet")["spec"]["template"]["spec"]["containers"]
    assert int(port) == container["ports"][0]["containerPort"]


def unit(tmp_path: Path) -> Path:
    """Return the unit with a program that is there."""
    path = tmp_path / "isotherm.service"
    program = Path(sys.executable).with_name("isotherm")
    text = (DEPLOY / "systemd/isotherm.service").read_text()
    path.write_text(text.replace("/usr/local/bin/isotherm", str(program)))
    return path


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
    text = (DEPLOY / "systemd/isotherm.service").read_text()
    (bounds,) = [x for x in text.splitlines() if x.startswith("CapabilityBoundingSet=")]
    assert set(NEEDED) <= set(bounds.partition("=")[2].split())
