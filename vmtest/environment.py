"""The environment in which the command runs."""

import os
import shlex
import sys
from pathlib import Path

from vmtest.request import OUT_IN_GUEST, Request

_PASSED_ON = ("HOME", "LANG", "LC_ALL", "VIRTUAL_ENV", "PYTHONPATH", "NO_COLOR")


def numba_environment(cache: Path) -> dict[str, str]:
    """Return what makes machine and guest share numba's compiled code.

    Numba files code under the CPU's name and features, which differ between an
    emulated CPU and the real one. Compiled for no CPU in particular it serves
    both; emulated, compiling is twenty times slower than loading.
    """
    return {
        "NUMBA_CACHE_DIR": str(cache),
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
    }


def guest_environment(request: Request, numba: Path) -> dict[str, str]:
    """Return the variables that the command sees."""
    if request.system is not None:
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/run/vmtest/bin",
            "HOME": "/root",
            **_names(request),
            **dict(request.environment),
        }
    # The interpreter's own programs first: in a virtual environment those are
    # what this checkout installed.
    programs = str(Path(sys.prefix) / "bin")
    system = os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    found = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    found |= {
        "PATH": f"{programs}:{system}:/usr/sbin:/sbin:/run/vmtest/bin",
        **_names(request),
    }
    return found | numba_environment(numba) | dict(request.environment)


def _names(request: Request) -> dict[str, str]:
    found = {"VMTEST_LAYOUT": request.layout.name, "VMTEST_KERNEL": request.kernel}
    if request.out is not None:
        found["VMTEST_OUT"] = str(OUT_IN_GUEST)
    if request.cgroup:
        found["VMTEST_CGROUP"] = "/sys/fs/cgroup/command"
    return found


def command_script(request: Request, numba: Path) -> str:
    """Return the shell script that becomes the command."""
    lines = [
        f"export {name}={shlex.quote(value)}"
        for name, value in guest_environment(request, numba).items()
    ]
    lines.append(f"cd {shlex.quote(str(request.folder))} || exit 125")
    lines.append(f"exec {shlex.join(request.command)}")
    return "\n".join(lines) + "\n"
