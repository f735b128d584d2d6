"""From a fresh Debian machine to a running, watched service, as documented.

Runs outside: it boots a Debian guest with systemd and asks what happened there.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MARK = "<!-- elsewhere: tests/vm/test_service.py -->"
LIMIT_S = int(os.environ.get("SERVICE_LIMIT_S") or 900)
MOST_COMMANDS = 5

pytestmark = [pytest.mark.outside, pytest.mark.slow, pytest.mark.timeout(LIMIT_S + 300)]


def documented() -> list[str]:
    """Return the commands of the first block of service.md, one a line."""
    text = (ROOT / "docs/reference/service.md").read_text()
    found = re.search(rf"{re.escape(MARK)}\n```sh\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"no block after {MARK}"
    lines = [line for line in found[1].splitlines() if line and line[0] != "#"]
    return [line.removeprefix("$ ") for line in lines]


def make_wheels(folder: Path) -> None:
    """Fill a folder with the project's wheel and all that it needs; or skip."""
    pip = [sys.executable, "-m", "pip"]
    built = subprocess.run(
        [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", str(ROOT)],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
    )
    assert 0 == built.returncode, built.stderr
    (wheel,) = folder.glob("isotherm-*.whl")
    done = subprocess.run(
        [
            *(*pip, "download", "--quiet", "--dest", str(folder)),
            *("--constraint", str(ROOT / "requirements/test.txt")),
            *("--python-version", "3.11", "--only-binary", ":all:"),
            f"isotherm[service] @ {wheel.as_uri()}",
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        if os.environ.get("ISOTHERM_REQUIRE_VM"):
            pytest.fail(done.stderr)
        pytest.skip(f"no packages to install from: {done.stderr.strip()[-300:]}")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Return what happened in the guest; all tests here ask of one guest."""
    from tests.vmtest.conftest import fetch_or_skip

    fetch_or_skip(system="debian", offered=("python3-venv",))
    shared = tmp_path_factory.mktemp("service")
    make_wheels(shared)
    for name in ("service_inside.py", "hot_and_cold.py"):
        shutil.copy(HERE / name, shared)
    out = shared / "report.json"
    logs = ROOT / "out/vm"
    logs.mkdir(parents=True, exist_ok=True)
    words = [
        *(sys.executable, "-m", "vmtest", "--system", "debian"),
        *("--offer", "python3-venv", "--memory", "1024,1024", "--tick", "0"),
        *("--limit", str(LIMIT_S), "--share", str(shared)),
        *("--console", str(logs / "service.console"), "--"),
        *("python3", str(shared / "service_inside.py"), str(shared)),
        *(json.dumps(documented()), str(out)),
    ]
    with (logs / "service.log").open("w") as log:
        done = subprocess.run(
            words, cwd=ROOT, check=False, stdout=log, stderr=subprocess.STDOUT
        )
    said = (logs / "service.log").read_text()
    assert out.exists(), said[-4000:]
    found = json.loads(out.read_text())
    shutil.copy(out, logs / "service.json")
    assert 0 == done.returncode, f"{found.get('error')}\n{found.get('journal', '')}"
    yield found
    shutil.rmtree(shared, ignore_errors=True)


def test_as_many_commands_as_documented() -> None:
    """At most five, without a fetch of something that no package manager knows."""
    commands = documented()
    assert 1 <= len(commands) <= MOST_COMMANDS
    assert not [x for x in commands if re.search(r"[;|]|&&|curl|wget", x)]


def test_it_is_installed_by_them(report: dict[str, Any]) -> None:
    """Each ends with 0; systemd finds nothing wrong with the unit."""
    assert documented() == [command for command, _, _, _ in report["commands"]]
    assert {0} == {status for _, status, _, _ in report["commands"]}
    assert 4 == len(report["unit_files"])
    assert "isotherm.service" not in report["verify"]


def test_it_is_watched(report: dict[str, Any]) -> None:
    """Active, which takes READY; the watchdog is fed, and systemctl says how it is."""
    assert "Active: active (running)" in report["status"]
    assert report["seconds"]["fed again"] > 0
    assert re.search(r"[KMG]iB managed", report["status_text"])
    assert "isotherm_" in report["metrics"]


def test_its_rights_are_divided(report: dict[str, Any]) -> None:
    """One process keeps them, and one of another user has none."""
    users = {status["Uid"].split()[0]: status for status in report["processes"]}
    assert 2 == len(report["processes"]) == len(users)
    (session,) = [status for uid, status in users.items() if uid != "0"]
    assert 0 == int(session["CapEff"], 16)
    assert "1" == session["NoNewPrivs"] == users["0"]["NoNewPrivs"]


def test_it_moves_and_says_why(report: dict[str, Any]) -> None:
    """Hot memory ends in the fast node; the socket answers; memory stays whole."""
    assert report["seconds"]["pages move"] >= 0
    assert json.loads(report["explain"])
    assert "intact" == report["workload"]


def test_its_log_is_structured(report: dict[str, Any]) -> None:
    """One JSON document a line in the journal, by name of what happened."""
    assert {"target", "run", "reload"} <= set(report["events"])


def test_it_is_reloaded(report: dict[str, Any]) -> None:
    """The same process goes on with the new limit."""
    assert report["same_process"]
    assert "migration.limit_mib_s" in report["journal"]


def test_it_is_started_again_after_a_kill(report: dict[str, Any]) -> None:
    """The manager sees the kill; no process of before lives on; changes are undone."""
    assert [] == report["old_left"]
    assert ("active", "1") == (
        report["after_kill"]["ActiveState"],
        report["after_kill"]["NRestarts"],
    )
    assert "recovered" in report["journal"]


@pytest.mark.parametrize("way", ["after_stop_all", "after_stop"])
def test_it_is_stopped(report: dict[str, Any], way: str) -> None:
    """By isotherm stop --all and by systemctl: settings as before, nobody left."""
    assert report["before"] != report["changed"]
    assert report["before"] != report["changed_again"]
    assert [report["before"], 0, "success"] == report[way]
    assert [] == [x for x in report["run_files"] if "journal" in x]


def test_it_is_removed(report: dict[str, Any]) -> None:
    """A removal with --purge takes back every file and the user."""
    assert [] == report["left"]
    assert not report["user_left"]
