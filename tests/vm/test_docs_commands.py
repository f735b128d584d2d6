"""The pages' commands for a host of several tiers, as they stand, in the guest.

What they speak of is there: processes 4242 and 4243, control groups, a server. A run
that a reader would end, or watch from another terminal, goes on beside the commands
that follow; `isotherm stop` ends it before the next one and at the end.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from isotherm.daemon.config import SYSTEM_FILE
from tests.docs.blocks import Block, blocks_of, command_blocks, commands_of
from tests.docs.surroundings import surroundings
from tests.vm.runs import HOT_AND_COLD, LIMIT_S, RUN

CGROUPS = Path("/sys/fs/cgroup")
GROUPS = ("db", "system.slice/db.service")
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
SERVER = """\
#!/bin/sh
exec python -m isotherm.workloads.native gups --pages 4096 --rate 20 --duration 20
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.slow_vm,
    pytest.mark.timeout(1200),
    pytest.mark.usefixtures("quiet_kernel"),
]
BLOCKS = [
    pytest.param(
        block,
        id=block.name,
        marks=[pytest.mark.layout("two-socket")]
        if "two sockets" in block.reason
        else [],
    )
    for block in command_blocks("guest")
]
Start = Callable[..., subprocess.Popen[str]]


def numbered(start: Start, pid: int) -> subprocess.Popen[str]:
    """Start a process that has hot and cold memory, under a number."""
    words = ["python", "-S", "-E", str(HOT_AND_COLD), "1", "4", "24"]
    for _ in range(20):
        LAST_PID.write_text(str(pid - 1))
        child = start(words)
        if child.pid == pid:
            assert child.stdout is not None
            assert "ready" == child.stdout.readline().split()[0]
            return child
        child.kill()
    pytest.fail(f"the number {pid} is not to be had")


@pytest.fixture
def host(start: Start, settings: Path) -> Iterator[None]:
    """Furnish the guest as the pages suppose a host to be."""
    for pid in (4242, 4243):
        numbered(start, pid)
    for name in GROUPS:
        (CGROUPS / name).mkdir(parents=True, exist_ok=True)
        member = start(["python", "-S", "-E", str(HOT_AND_COLD), "1", "4", "24"])
        (CGROUPS / name / "cgroup.procs").write_text(str(member.pid))
        assert member.stdout is not None
        member.stdout.readline()
    SYSTEM_FILE.write_text(settings.read_text())
    yield
    SYSTEM_FILE.unlink()


class Terminal:
    """Where a page's commands are typed."""

    def __init__(self, place: Path, environment: dict[str, str]) -> None:
        self._place, self._environment = place, environment
        self._beside: tuple[subprocess.Popen[str], Path] | None = None
        self._typed = 0

    def type(self, command: str, await_true: Callable[..., None]) -> None:
        """Run a command; one that does not end by itself is left to go on."""
        is_run = "isotherm run" in command
        goes_on = is_run and "--duration" not in command and " -- " not in command
        if is_run:
            self.stop()
        self._typed += 1
        said = self._place / f".said-{self._typed}"
        with said.open("w") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}" if goes_on else command],
                cwd=self._place,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
            )
        if goes_on:
            self._beside = process, said
            await_true(
                lambda: list(RUN.glob("run-*.json")) or process.poll() is not None,
                f"{command} runs",
                LIMIT_S,
            )
            assert process.poll() is None, said.read_text()
        else:
            code = process.wait(LIMIT_S)
            assert 0 == code, f"{command}\n{said.read_text()}"

    def stop(self) -> None:
        """End what goes on; it must end well."""
        beside, self._beside = self._beside, None
        if beside is not None:
            process, said = beside
            if process.poll() is None:  # the page may have stopped it
                stop = ["isotherm", "stop", "--all", "--wait", str(LIMIT_S)]
                subprocess.run(stop, env=self._environment, check=False)
            assert 0 == process.wait(LIMIT_S), said.read_text()


@pytest.mark.parametrize("block", BLOCKS)
def test_commands_run(
    block: Block, host: None, tmp_path: Path, await_true: Callable[..., None]
) -> None:
    """Each ends with 0, and so does each run when it is stopped."""
    place = tmp_path / "place"
    place.mkdir()
    with ExitStack() as stack:
        environment = stack.enter_context(surroundings(block.page, place))
        server = place / ".programs" / "redis-server"
        server.write_text(SERVER)
        server.chmod(0o755)
        if block.page.stem == "tenants":  # as the page shows it, for a host
            shown = next(b for b in blocks_of(block.page) if b.language == "toml")
            (place / "tenants.toml").write_text(shown.text)
        environment |= {"ISOTHERM_KERNELS": os.environ.get("ISOTHERM_KERNELS", "numpy")}
        terminal = Terminal(place, environment)
        for command in commands_of(block):
            terminal.type(command.text, await_true)
        terminal.stop()
