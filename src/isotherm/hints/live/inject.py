"""System calls run inside another process, by ptrace: stop, call, put back, go on.

For the one thing that no process can do for another: create a userfaultfd of its
memory. Only for targets that were named for it. The main thread is stopped for as
long as the calls take, 0.04 to 0.2 ms; its registers come back as they were, and a
call that it slept in is restarted by the kernel. x86-64 only.
"""

import contextlib
import ctypes
import errno
import os
import platform
import signal
import time
from typing import Final, Self

import numpy as np

from isotherm.core.errors import (
    IsothermError,
    NotPermittedError,
    TargetGoneError,
    UnsupportedError,
)
from isotherm.machine.linux.process import Process

# include/uapi/linux/ptrace.h
_SINGLESTEP: Final = 9
_GETREGS: Final = 12
_SETREGS: Final = 13
_CONT: Final = 7
_DETACH: Final = 17
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_EVENT_STOP: Final = 128
_WALL: Final = 0x40000000

#: struct user_regs_struct (arch/x86/include/asm/user_64.h) as 27 words.
_REGISTERS: Final = 27
_R10, _R9, _R8, _RAX, _RDX, _RSI, _RDI = 7, 8, 9, 10, 12, 13, 14
_ORIG_RAX, _RIP, _CS = 15, 16, 17
_ARGUMENTS: Final = (_RDI, _RSI, _RDX, _R10, _R8, _R9)
_CS_64: Final = 0x33  # a task in 64-bit mode
_SYSCALL: Final = b"\x0f\x05"
_STEPS: Final = 64  # signals that may come between; each costs a step
#: Last of the errors that a system call returns as a negative number.
_MAX_ERRNO: Final = 4095

_libc = ctypes.CDLL(None, use_errno=True)
_ptrace = _libc.ptrace
_ptrace.restype = ctypes.c_long


class StoppedProcess:
    """A process whose main thread is stopped, to run system calls in it.

    A context manager; enter and leave it in one thread, the kernel's tracer.

    Args:
        process: Whom to stop.

    Attributes:
        stopped_ns: For how long it was stopped, after it goes on.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pid = process.pid
        self._saved = np.zeros(_REGISTERS, np.uint64)
        self._at = 0
        self._signals: list[int] = []
        self._began_ns = 0
        self.stopped_ns = 0

    def __enter__(self) -> Self:
        """Stop it.

        Raises:
            UnsupportedError: Not x86-64, or somebody else traces it.
            NotPermittedError: ptrace is not permitted.
            TargetGoneError: It has ended.
        """
        if platform.machine() != "x86_64":
            raise UnsupportedError(
                f"ptrace injection: found {platform.machine()}, expected x86_64"
            )
        self._at = self._find_instruction()
        with self._process.held() as alive:
            if not alive:
                raise TargetGoneError(f"pid {self._pid}: no such process any more")
            self._request(_SEIZE)
        try:
            self._began_ns = time.monotonic_ns()
            self._request(_INTERRUPT)
            self._wait(for_interrupt=True)
            self._request(_GETREGS, self._saved)
            if int(self._saved[_CS]) != _CS_64:
                raise UnsupportedError(f"pid {self._pid}: not a 64-bit process")
        except IsothermError:
            self._detach()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Put its registers back and let it go on."""
        with contextlib.suppress(TargetGoneError):
            self._request(_SETREGS, self._saved)
        self._detach()

    def call(self, number: int, *arguments: int) -> int:
        """Run one system call in it and return its result, or -errno.

        Raises:
            TargetGoneError: It was killed meanwhile.
        """
        registers = self._saved.copy()
        registers[_RAX] = number
        registers[_ORIG_RAX] = np.uint64(2**64 - 1)  # no call to restart
        registers[_RIP] = self._at
        for slot, value in zip(_ARGUMENTS, arguments, strict=False):
            registers[slot] = value
        self._request(_SETREGS, registers)
        for _ in range(_STEPS):
            self._request(_SINGLESTEP)
            self._wait(for_interrupt=False)
            self._request(_GETREGS, registers)
            if int(registers[_RIP]) != self._at:
                break
        result = int(registers[_RAX].astype(np.int64))
        return result if result >= -_MAX_ERRNO else -errno.EINTR

    def _find_instruction(self) -> int:
        """Return the address of a system call instruction: the vDSO has one."""
        lines = self._process.read_text("maps").splitlines()
        code = [line.split() for line in lines if " r-xp " in line]
        code.sort(key=lambda fields: fields[-1] != "[vdso]")
        memory = self._process.open("mem")
        try:
            for fields in code:
                first, last = (int(a, 16) for a in fields[0].split("-"))
                if fields[-1] == "[vsyscall]":
                    continue
                with contextlib.suppress(OSError):
                    text = os.pread(memory, min(last - first, 4 << 20), first)
                    found = text.find(_SYSCALL)
                    if found >= 0:
                        return first + found
        finally:
            os.close(memory)
        raise UnsupportedError(f"pid {self._pid}: no system call instruction found")

    def _request(
        self, request: int, data: "np.typing.NDArray[np.uint64] | int" = 0
    ) -> None:
        pointer = data if isinstance(data, int) else data.ctypes.data
        answer = _ptrace(
            ctypes.c_long(request),
            ctypes.c_long(self._pid),
            ctypes.c_void_p(0),
            ctypes.c_void_p(pointer),
        )
        if answer >= 0:
            return
        code = ctypes.get_errno()
        if code == errno.ESRCH:
            raise TargetGoneError(f"pid {self._pid}: no such process any more")
        name = errno.errorcode.get(code, str(code))
        raise NotPermittedError(
            f"pid {self._pid}: ptrace: {name}",
            hint="run as root, and without a debugger on the target",
        )

    def _wait(self, *, for_interrupt: bool) -> None:
        """Wait for the stop; signals that come first are kept for later."""
        while True:
            _, status = os.waitpid(self._pid, _WALL)
            if not os.WIFSTOPPED(status):
                raise TargetGoneError(f"pid {self._pid}: no such process any more")
            stop, event = os.WSTOPSIG(status), status >> 16
            if for_interrupt and event == _EVENT_STOP:
                return
            if not for_interrupt and stop == signal.SIGTRAP:
                return
            if event != _EVENT_STOP:
                self._signals.append(stop)
            if not for_interrupt:
                return
            self._request(_CONT)

    def _detach(self) -> None:
        """Let it go on, with the signals that came meanwhile."""
        first, rest = self._signals[:1], self._signals[1:]
        with contextlib.suppress(IsothermError):
            self._request(_DETACH, first[0] if first else 0)
        self.stopped_ns = time.monotonic_ns() - self._began_ns
        for number in rest:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._process.pidfd, number)
