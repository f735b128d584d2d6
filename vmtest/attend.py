"""Attend a running guest: pass its output on and see that it ends."""

import contextlib
import os
import re
import select
import selectors
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vmtest.control import Progress
from vmtest.errors import NO_GUEST, TIMED_OUT
from vmtest.qemu import PORTS, port_options

_LEASH = Path(__file__).with_name("leash.py")
_ENDING_S = 10
"""To read what is left in the pipes, and for QEMU to go."""

_QUIET_S = 0.1
"""After the command's end; QEMU may still hold what a full pipe did not take."""

_CONSOLE_LINES = 40
_MOST_CONSOLE_LINES = 200
_FATAL = re.compile(r"Kernel panic|BUG:|Oops|sysrq triggered crash")
"""Of a console's end so many lines are told; of one that says why, more, from there."""


@dataclass(frozen=True, slots=True)
class Streams:
    """Where the command's output goes."""

    stdout: BinaryIO
    stderr: BinaryIO

    def say(self, *lines: str) -> None:
        """Put words of vmtest's own on the error stream, where somebody reads it."""
        text = "".join(f"vmtest: {line}\n" for line in lines)
        _pass_on(text.encode(), self.stderr, time.monotonic() + _ENDING_S)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a guest ended.

    Attributes:
        exit_status: The command's, or 124 or 125.
        booted_s: Wall time from the start of QEMU to the command, or None.
        total_s: Wall time from the start of QEMU to its end.
    """

    exit_status: int
    booted_s: float | None
    total_s: float


def attend(
    words: Sequence[str],
    environment: Mapping[str, str],
    archive: bytes,
    streams: Streams,
    *,
    console: Path | None,
    limit_s: float,
    verbose: bool,
) -> Outcome:
    """Start QEMU and return when it has ended, by itself or by force.

    The limit holds where nobody reads the output, too: what could not be passed on
    by then is lost.

    Nothing is written to disk: archive and console are memory of this process.
    """
    start = time.monotonic()
    end = start + limit_s
    progress = Progress()
    booted_s = None
    with _memory_file("initramfs") as initramfs, _console(console) as log:
        initramfs.write(archive)
        initramfs.flush()
        inherited = [initramfs.fileno(), log.fileno()]
        pipes = {name: os.pipe() for name in PORTS}
        command = [
            *words,
            "-initrd",
            f"/proc/self/fd/{initramfs.fileno()}",
            "-chardev",
            f"file,id=console,path=/proc/self/fd/{log.fileno()},append=on",
            "-serial",
            "chardev:console",
            *port_options({name: write for name, (_, write) in pipes.items()}),
        ]
        if verbose:
            streams.say(shlex.join(command))
        process = _start(
            command, environment, [*inherited, *(write for _, write in pipes.values())]
        )
        # Whatever this thread waits for, the guest ends in time.
        executed = threading.Event()

        def execute() -> None:
            executed.set()
            process.kill()

        executioner = threading.Timer(end - time.monotonic(), execute)
        executioner.daemon = True
        executioner.start()
        try:
            ears = selectors.DefaultSelector()
            for name, (read, write) in pipes.items():
                os.close(write)
                ears.register(read, selectors.EVENT_READ, name)
            while ears.get_map() and (now := time.monotonic()) < end:
                ending = progress.exit_status is not None
                heard = ears.select(min(end - now, _QUIET_S) if ending else end - now)
                if ending and not heard:
                    process.kill()
                for key, _ in heard:
                    data = os.read(key.fd, 65536)
                    if not data:
                        ears.unregister(key.fd)
                    elif key.data == "control":
                        progress.hear(data)
                        now = time.monotonic()
                        if progress.started_s is not None and booted_s is None:
                            booted_s = now - start
                            if verbose:
                                streams.say(f"{booted_s:.1f} s: the command starts")
                        if progress.exit_status is not None and not ending:
                            end = now + _ENDING_S
                    else:
                        _pass_on(data, getattr(streams, key.data), end)
            late = bool(ears.get_map()) or executed.is_set()
            if not late:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_ENDING_S)
        finally:
            executioner.cancel()
            process.kill()
            process.wait()
            for read, _ in pipes.values():
                os.close(read)
        total_s = time.monotonic() - start
        if verbose:
            streams.say(f"{total_s:.1f} s: the guest has ended")
        if progress.exit_status is not None:
            return Outcome(progress.exit_status, booted_s, total_s)
        reason = _explain(progress, limit_s if late else None)
        streams.say(reason, "the end of its console:", *_last_lines(log))
        return Outcome(TIMED_OUT if late else NO_GUEST, booted_s, total_s)


def _start(
    command: Sequence[str], environment: Mapping[str, str], inherited: Sequence[int]
) -> subprocess.Popen[bytes]:
    leash = [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid())]
    return subprocess.Popen(
        [*leash, *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C is ours to handle
        pass_fds=inherited,
    )


def _pass_on(data: bytes, stream: BinaryIO, end: float) -> None:
    """Write as much as is taken until a time; a stream without a file takes all."""
    try:
        stream.flush()
        try:
            file = stream.fileno()
        except OSError:
            stream.write(data)
            return
        room = select.poll()
        room.register(file, select.POLLOUT)
        left = memoryview(data)
        while left and (now := time.monotonic()) < end and room.poll((end - now) * 1e3):
            # A pipe that is ready takes so much without waiting (pipe(7)).
            left = left[os.write(file, left[: select.PIPE_BUF]) :]
    except BrokenPipeError:
        # Nobody reads any more: end as a program does that SIGPIPE kills.
        raise SystemExit(128 + signal.SIGPIPE) from None


def _explain(progress: Progress, limit_s: float | None) -> str:
    if progress.failure is not None:
        return f"the guest could not begin: {progress.failure}"
    when = "before" if progress.started_s is None else "after"
    what = (
        "the guest ended without an answer"
        if limit_s is None
        else f"no end within {limit_s:g} s"
    )
    return f"{what}, {when} the command had started"


@contextlib.contextmanager
def _memory_file(name: str) -> Iterator[BinaryIO]:
    with os.fdopen(os.memfd_create(name), "w+b") as file:
        yield file


@contextlib.contextmanager
def _console(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        with _memory_file("console") as file:
            yield file
    else:
        with path.open("w+b") as file:
            yield file


def _last_lines(log: BinaryIO) -> list[str]:
    log.seek(0)
    text = log.read().decode(errors="replace")
    # The firmware clears the screen by escape sequences.
    text = re.sub(r"\x1b(\[[0-9;?=]*[A-Za-z]|c)", "", text)
    lines = text.splitlines()
    first = max(0, len(lines) - _CONSOLE_LINES)
    fatal = (at for at, line in enumerate(lines) if _FATAL.search(line))
    first = max(min(next(fatal, first), first), len(lines) - _MOST_CONSOLE_LINES)
    return ["    " + line.rstrip() for line in lines[first:]]
