"""The command's environment, and the accelerator."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmtest.accelerator import choose_accelerator
from vmtest.environment import command_script, guest_environment
from vmtest.errors import GuestError
from vmtest.layout import LAYOUTS
from vmtest.request import Request

NUMBA = Path("/cache/numba")


def make_request(*command: str, **more: object) -> Request:
    """Return a request for the default layout."""
    return Request(command, LAYOUTS["two-tier"], **more)  # type: ignore[arg-type]


def test_the_interpreters_programs_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of this virtual environment is found before the system's."""
    monkeypatch.setenv("PATH", "/usr/bin")
    path = guest_environment(make_request("true"), NUMBA)["PATH"].split(":")
    assert [str(Path(sys.prefix) / "bin"), "/usr/bin"] == path[:2]
    assert "/run/vmtest/bin" in path


def test_the_guest_knows_what_it_is() -> None:
    """Layout, kernel, and places where there are some."""
    found = guest_environment(make_request("true"), NUMBA)
    assert ("two-tier", "6.12") == (found["VMTEST_LAYOUT"], found["VMTEST_KERNEL"])
    assert "VMTEST_OUT" not in found
    assert "VMTEST_CGROUP" not in found
    found = guest_environment(make_request("true", out=Path("/o"), cgroup=True), NUMBA)
    assert "/run/vmtest/out" == found["VMTEST_OUT"]
    assert "/sys/fs/cgroup/command" == found["VMTEST_CGROUP"]


def test_what_is_asked_for_wins() -> None:
    """Also over numba's settings, which are there by themselves."""
    found = guest_environment(make_request("true"), NUMBA)
    assert ("/cache/numba", "generic", "") == (
        found["NUMBA_CACHE_DIR"],
        found["NUMBA_CPU_NAME"],
        found["NUMBA_CPU_FEATURES"],
    )
    asked = make_request("true", environment=(("NUMBA_CPU_NAME", "x"),))
    assert "x" == guest_environment(asked, NUMBA)["NUMBA_CPU_NAME"]


def test_the_script_keeps_every_character(tmp_path: Path) -> None:
    """Quotes, dollars and newlines reach the command as they were."""
    strange = "a 'b' \"c\" $HOME `id` \\ \n z"
    folder = tmp_path / "with space"
    folder.mkdir()
    request = make_request(
        sys.executable,
        "-c",
        "import os, sys; sys.stdout.write(os.getcwd() + os.environ['S'] + sys.argv[1])",
        strange,
        folder=folder,
        environment=(("S", strange),),
    )
    done = subprocess.run(
        ["/bin/sh"],
        input=command_script(request, NUMBA),
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{folder}{strange}{strange}" == done.stdout


def test_kvm_is_used_where_it_boots(tmp_path: Path) -> None:
    """A device that opens is no proof; one that boots a guest is."""
    device = tmp_path / "kvm"
    device.touch()
    assert "kvm" == choose_accelerator("auto", lambda: True, device)
    assert "tcg" == choose_accelerator("auto", lambda: False, device)
    assert "kvm" == choose_accelerator("kvm", lambda: False, device)


def test_without_kvm_no_probe_is_made(tmp_path: Path) -> None:
    """And asking for it by name is refused."""

    def never() -> bool:
        raise AssertionError

    device = tmp_path / "kvm"
    assert "tcg" == choose_accelerator("auto", never, device)
    assert "tcg" == choose_accelerator("tcg", never, device)
    with pytest.raises(GuestError, match="kvm: no access"):
        choose_accelerator("kvm", never, device)
    if os.geteuid():
        device.touch(0o000)
        assert "tcg" == choose_accelerator("auto", never, device)
