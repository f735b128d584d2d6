"""The command line of vmtest."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from vmtest.accelerator import ACCELERATORS
from vmtest.cache import KERNELS, SYSTEMS, Cache
from vmtest.errors import NO_GUEST, GuestError
from vmtest.layout import LAYOUTS
from vmtest.request import Request
from vmtest.run import qemu_name, run

_USAGE = "python -m vmtest [options] -- COMMAND [ARGUMENT...]"
_DESCRIPTION = "Run a command on a real kernel that sees several memory tiers."


def _layouts() -> str:
    lines = [
        f"  {layout.name:<11} {layout.summary}; "
        f"{' + '.join(str(node.memory_mib) for node in layout.nodes)} MiB"
        for layout in LAYOUTS.values()
    ]
    return "layouts:\n" + "\n".join(lines)


_EPILOG = f"""{_layouts()}

The exit status is the command's own; 124 after the time limit; 125 where the
guest cannot be started or ends without an answer; 2 for wrong options.
Everything the command writes is gone with the guest, except below --share and
--out. QEMU and kernels are Debian packages, kept in VMTEST_CACHE (default:
vmtest in XDG_CACHE_HOME or ~/.cache). See docs/reference/vmtest.md.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="vmtest",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--layout", choices=list(LAYOUTS), default="two-tier", help="default: two-tier")
    add("--kernel", choices=list(KERNELS), default="6.12", help="default: 6.12")
    add("--memory", metavar="MIB[,MIB...]", help="memory of node 0, 1, ...")
    add("--cpus", type=int, default=2, metavar="N", help="default: 2")
    add(
        "--share",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="a folder that the guest may write to, under the same path",
    )
    add("--out", type=Path, metavar="DIR", help="a folder, $VMTEST_OUT in the guest")
    add(
        "--system",
        choices=list(SYSTEMS),
        help="boot this system, with its own first process, not this machine's root",
    )
    add(
        "--offer",
        metavar="PACKAGE[,PACKAGE...]",
        default="",
        help="what apt can install in that system",
    )
    add("--folder", type=Path, metavar="DIR", help="where to run; default: here")
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="set a variable, or pass it on",
    )
    add(
        "--module",
        action="append",
        default=[],
        metavar="NAME",
        help="load a kernel module, such as zram",
    )
    add(
        "--append",
        default="",
        metavar="ARGS",
        help="more for the kernel's command line",
    )
    add(
        "--slow-motion",
        type=float,
        default=1,
        metavar="FACTOR",
        help="claim memory that is so many times slower, as emulated code is",
    )
    add("--cgroup", action="store_true", help="run in a control group, $VMTEST_CGROUP")
    add(
        "--late",
        action="store_true",
        help="leave CXL memory to the command: vmtest-cxl arrive",
    )
    add(
        "--tick",
        type=float,
        default=5,
        metavar="MS",
        help="drop emulated address translations this often; 0: never; default: 5",
    )
    add(
        "--limit",
        type=float,
        default=300,
        metavar="S",
        help="for all of it, boot included; default: 300",
    )
    add("--console", type=Path, metavar="FILE", help="keep the kernel's messages")
    add("--accelerator", choices=ACCELERATORS, default="tcg", help="default: tcg")
    add("--fetch", action="store_true", help="only fill the cache for these options")
    add("--verbose", action="store_true", help="say QEMU's options and the times")
    add("command", nargs="*", help=argparse.SUPPRESS)
    return parser


def parse_request(words: Sequence[str] | None = None) -> tuple[Request, bool]:
    """Return what to run, and whether only to fetch.

    Raises:
        GuestError: Options that do not fit the layout.
        SystemExit: Wrong options (2), or help (0).
    """
    parser = build_parser()
    given = parser.parse_args(words)
    if not given.command and not given.fetch:
        parser.error("no command")
    if given.limit <= 0 or given.tick < 0:
        parser.error("--limit and --tick must not be negative")
    layout = LAYOUTS[given.layout]
    if given.late and layout.cxl_node is None:
        parser.error("--late needs --layout cxl")
    if given.offer and given.system is None:
        parser.error("--offer needs --system")
    if given.memory:
        try:
            sizes = tuple(int(size) for size in given.memory.split(","))
        except ValueError:
            parser.error(f"--memory: expected numbers of MiB, found {given.memory}")
        try:
            layout = layout.with_memory(sizes)
        except GuestError as error:
            parser.error(str(error))
    try:
        layout = layout.in_slow_motion(given.slow_motion)
    except GuestError as error:
        parser.error(str(error))
    environment = []
    for word in given.env:
        name, equals, value = word.partition("=")
        if not name.replace("_", "a").isalnum():
            parser.error(f"--env: not a name: {name!r}")
        if equals:
            environment.append((name, value))
        elif name in os.environ:
            environment.append((name, os.environ[name]))
    request = Request(
        command=tuple(given.command),
        layout=layout,
        kernel=given.kernel,
        cpus=given.cpus,
        folder=(given.folder or (Path("/") if given.system else Path.cwd())).absolute(),
        shares=tuple(given.share),
        out=given.out,
        environment=tuple(environment),
        modules=tuple(given.module),
        kernel_arguments=given.append,
        console=given.console,
        tick_ms=given.tick,
        cgroup=given.cgroup,
        late=given.late,
        limit_s=given.limit,
        accelerator=given.accelerator,
        system=given.system,
        offered=tuple(given.offer.split(",")) if given.offer else (),
        verbose=given.verbose,
    )
    return request, given.fetch


def main(words: Sequence[str] | None = None) -> int:
    """Run a command in a guest and return its exit status."""
    signal.signal(signal.SIGTERM, _end)
    request, fetch_only = parse_request(words)
    try:
        if fetch_only:
            cache = Cache()
            cache.qemu(qemu_name(request.layout))
            cache.kernel(request.kernel)
            if request.system is not None:
                cache.system(request.system, request.offered)
            return 0
        return run(request).exit_status
    except (GuestError, OSError) as error:
        sys.stderr.write(f"vmtest: {error}\n")
        hint = getattr(error, "hint", None)
        if hint:
            sys.stderr.write(f"  hint: {hint}\n")
        return NO_GUEST
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
