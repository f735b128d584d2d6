"""What happens inside a Debian guest: install, watch, reload, kill, stop, remove.

``python3 service_inside.py WHEELS COMMANDS REPORT``: a folder of wheels, a JSON list of
the documented commands, and a file for the report, which the test reads outside. Of the
standard library alone; what it does beyond the commands is told by what a fresh machine
would have: an index to install from, and settings for a machine that runs code slowly.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT_S = 600.0
HOT_PAGES = 1024
UNIT = "isotherm.service"
DROP_IN = Path("/etc/systemd/system/isotherm.service.d/slow.conf")
SETTINGS = Path("/etc/isotherm.toml")
#: Emulation makes code slower, not memory: see vmtest.md, Times.
SLOW = """
[budget]
cpu_percent = 6400.0
[brake]
enabled = false
[sources]
use = ["damon"]
"""
HOST = (
    "/proc/sys/kernel/numa_balancing",
    "/sys/kernel/mm/numa/demotion_enabled",
    "/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds",
)
FILES = (
    "/etc/systemd/system/isotherm.service",
    "/etc/sysusers.d/isotherm.conf",
    "/usr/local/bin/isotherm",
    str(SETTINGS),
    "/var/cache/isotherm",
)

report: dict[str, Any] = {"commands": [], "seconds": {}}


def say(text: str) -> None:
    """Tell how far it is, with the guest's time."""
    uptime = Path("/proc/uptime").read_text().split()[0]
    sys.stdout.write(f"{uptime} {text}\n")
    sys.stdout.flush()


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command and return what it said."""
    return subprocess.run(words, check=False, capture_output=True, text=True)


def must(*words: str) -> str:
    """Run a command that must succeed; return its output."""
    done = run(*words)
    if done.returncode:
        raise RuntimeError(f"{words}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def until(what: str, condition: Callable[[], Any]) -> Any:
    """Wait for a condition; return what it returned."""
    begun = time.monotonic()
    while True:
        with contextlib.suppress(OSError):
            if found := condition():
                report["seconds"][what] = round(time.monotonic() - begun, 3)
                say(what)
                return found
        if time.monotonic() > begun + LIMIT_S:
            raise RuntimeError(f"not within {LIMIT_S:g} s: {what}")
        time.sleep(0.2)


def unit() -> dict[str, str]:
    """Return what systemd says of the unit."""
    names = "ActiveState,SubState,MainPID,NRestarts,StatusText,Result"
    names += ",WatchdogTimestampMonotonic,ExecMainStatus"
    lines = must("systemctl", "show", UNIT, "-p", names).splitlines()
    return dict(line.split("=", 1) for line in lines)


def is_active() -> bool:
    """Return whether it runs; a unit that has failed never will."""
    state = unit()
    if state["ActiveState"] == "failed":
        raise RuntimeError(f"failed: {state}\n{journal()}")
    return state["ActiveState"] == "active"


def journal() -> str:
    """Return what the unit has logged."""
    return must("journalctl", "-u", UNIT, "-o", "cat", "--no-pager")


def processes() -> dict[int, dict[str, str]]:
    """Return the status of every process of isotherm."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if any(word.endswith(b"/isotherm") for word in words):
                lines = (path / "status").read_text().splitlines()
                found[int(path.name)] = dict(
                    x.split(":\t", 1) for x in lines if ":\t" in x
                )
    return found


def host() -> dict[str, str]:
    """Return what the kernel's settings say."""
    return {name: Path(name).read_text().strip() for name in HOST}


def hot_pages(pid: int, address: int) -> int:
    """Return how many pages of the hot mapping are on the fast node."""
    lines = Path(f"/proc/{pid}/numa_maps").read_text().splitlines()
    line = max(
        (int(x.split()[0], 16), x) for x in lines if int(x.split()[0], 16) <= address
    )
    found = re.search(r"\bN0=(\d+)", line[1])
    return int(found[1]) if found else 0


def scrape() -> str:
    """Return the metrics."""
    with urllib.request.urlopen("http://127.0.0.1:9977/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def start_workload(program: str) -> tuple[int, int, int]:
    """Start a service with hot memory on the slow node; return pid, address, hold."""
    os.mkfifo("/run/hold")
    hold = os.open("/run/hold", os.O_RDWR)
    must(
        *("systemd-run", "--unit=database", "--slice=system.slice", "--quiet"),
        *("-p", "StandardInput=file:/run/hold", "-p", "StandardOutput=file:/run/said"),
        *("python3", "-S", "-E", program, "1", "4", "24"),
    )
    until("the workload is ready", lambda: Path("/run/said").read_text().strip())
    pid = int(must("systemctl", "show", "database", "-p", "MainPID", "--value"))
    return pid, int(Path("/run/said").read_text().split()[1]), hold


def prepare(wheels: str) -> None:
    """Be a fresh machine that reaches an index: here a folder."""
    Path("/etc/pip.conf").write_text(
        f"[global]\nno-index = true\nfind-links = {wheels}\nno-compile = true\n"
        "disable-pip-version-check = true\n"
    )
    must("apt-get", "-q", "update")
    for name in ("/proc/sys/kernel/numa_balancing",):
        Path(name).write_text("0")
    Path("/sys/kernel/mm/transparent_hugepage/enabled").write_text("never")


def slow_down() -> None:
    """Give the service what it needs where code runs slowly."""
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    DROP_IN.write_text(
        "[Service]\nCPUQuota=\nTimeoutStartSec=900\nTimeoutStopSec=300\n"
    )
    SETTINGS.write_text(SETTINGS.read_text() + SLOW)
    must("systemctl", "daemon-reload")


def install(commands: list[str]) -> None:
    """Type the documented commands."""
    for command in commands:
        if "systemctl enable" in command:
            report["unit_files"] = [name for name in FILES if Path(name).exists()]
            slow_down()
            must("vmtest-tick", "0.01")
        begun = time.monotonic()
        done = run("sh", "-c", command)
        took = time.monotonic() - begun
        said = (done.stdout + done.stderr)[-2000:]
        report["commands"].append([command, done.returncode, round(took, 1), said])
        say(f"{done.returncode}: {command}")
        if done.returncode:
            raise RuntimeError(f"{command}: {said}\n{journal()}")


def watch(pid: int, hot: int) -> None:
    """See that it runs, is watched, and moves."""
    until("active", is_active)
    report["verify"] = run("systemd-analyze", "verify", "--man=no", UNIT).stderr
    report["status"] = must("systemctl", "status", "--no-pager", UNIT)
    report["processes"] = [
        {key: status[key] for key in ("Name", "Uid", "CapEff", "NoNewPrivs")}
        for status in processes().values()
    ]
    first = int(unit()["WatchdogTimestampMonotonic"])
    until("fed again", lambda: int(unit()["WatchdogTimestampMonotonic"]) > first)
    report["metrics"] = until("metrics answer", scrape)
    report["changed"] = host()
    until("pages move", lambda: hot_pages(pid, hot) >= 0.9 * HOT_PAGES)
    report["explain"] = must("isotherm", "explain", "--pid", str(pid), "--json")
    report["status_text"] = unit()["StatusText"]


def reload_it() -> None:
    """Change a live setting; what runs goes on."""
    main = unit()["MainPID"]
    SETTINGS.write_text(SETTINGS.read_text() + "[migration]\nlimit_mib_s = 123.0\n")
    must("systemctl", "reload", UNIT)
    until("reloaded", lambda: "limit_mib_s" in journal() and is_active())
    report["same_process"] = main == unit()["MainPID"]


def kill_it() -> None:
    """Kill the main process: systemd starts it again, nothing of the old one stays."""
    old = processes()
    os.kill(int(unit()["MainPID"]), signal.SIGKILL)
    until("started again", lambda: unit()["NRestarts"] == "1" and is_active())
    report["old_left"] = sorted(set(old) & set(processes()))
    report["after_kill"] = unit()


def end() -> None:
    """Stop it in both ways, and remove it."""
    begun = time.monotonic()
    report["stop_all"] = must("isotherm", "stop", "--all", "--wait", "300")
    report["seconds"]["stop --all"] = round(time.monotonic() - begun, 3)
    until("inactive", lambda: unit()["ActiveState"] == "inactive")
    report["after_stop_all"] = [host(), len(processes()), unit()["Result"]]
    must("systemctl", "start", UNIT)
    until("active once more", is_active)
    report["changed_again"] = host()
    begun = time.monotonic()
    must("systemctl", "stop", UNIT)
    report["seconds"]["systemctl stop"] = round(time.monotonic() - begun, 3)
    report["after_stop"] = [host(), len(processes()), unit()["Result"]]
    report["run_files"] = [str(x) for x in Path("/run/isotherm").glob("**/*")]
    report["journal"] = journal()
    lines = report["journal"].splitlines()
    report["events"] = [json.loads(x)["event"] for x in lines if x.startswith("{")]
    program = "/opt/isotherm/bin/isotherm"
    report["uninstall"] = must(program, "service", "uninstall", "--purge")
    report["left"] = [name for name in FILES if os.path.lexists(name)]
    report["user_left"] = "isotherm:" in Path("/etc/passwd").read_text()


def main() -> None:
    """Do all of it; the report says how far it came."""
    wheels, commands, out = sys.argv[1:4]
    try:
        prepare(wheels)
        report["before"] = host()
        pid, hot, hold = start_workload(
            str(Path(__file__).with_name("hot_and_cold.py"))
        )
        install(json.loads(commands))
        watch(pid, hot)
        reload_it()
        kill_it()
        end()
        os.write(hold, b"\n")
        until(
            "the workload has ended", lambda: "\n" in Path("/run/said").read_text()[:-1]
        )
        report["workload"] = Path("/run/said").read_text().split()[-1]
    except Exception as error:
        report["error"] = f"{type(error).__name__}: {error}"
        with contextlib.suppress(Exception):
            report["journal"] = journal()
        raise
    finally:
        Path(out).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
