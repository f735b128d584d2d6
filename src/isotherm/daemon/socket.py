"""The socket on which a running daemon answers questions.

A stream socket beside the daemon's other files, mode 0600; who connects must be
root or the daemon's own user, as the kernel says (SO_PEERCRED). A client sends
one JSON document in one line, gets one JSON document, and the connection ends:

``{"ask": "status"}``
    What the daemon says of itself, and the processes that it manages.
``{"ask": "tenants"}``
    The same, and what each tenant holds, causes and pays.
``{"ask": "explain", "pid": 4242, "start": 139..., "end": 139...}``
    Why memory of a process is where it is; without start and end all of it.
``{"ask": "view", "most_ranges": 64, "heat": true}``
    What a screen shows of the run (``observability.view``); ``first_range`` and
    ``order`` (``heat``, ``size``, ``address``) choose other ranges.

A question may say ``"version": 1``; one of a later version is refused. An answer is
``{"version": 1, "answer": {...}}`` or ``{"version": 1, "error": {"message", "hint",
"exit_code"}}``. A document is data: nothing in it is evaluated, and there is
nothing that changes the daemon. Who asks more than ``QUESTIONS_PER_S`` is told to
wait: answering is part of the daemon's budget.
"""

import contextlib
import errno
import os
import re
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from isotherm.core.errors import (
    IsothermError,
    NotPermittedError,
    TargetGoneError,
    UnsupportedError,
    UsageError,
)

#: A longer line is no question.
MOST_QUESTION_BYTES: Final = 1 << 16
#: An answer with all its moves stays far below.
MOST_ANSWER_BYTES: Final = 1 << 26
#: A client that does not write or read in this time is dropped.
CLIENT_S: Final = 5.0
#: An address in sun_path (include/uapi/linux/un.h), with its final zero.
_MOST_PATH: Final = 108
_MOST_READS: Final = 16
_UCRED: Final = struct.Struct("iII")


#: Of the documents; a later one may mean something else.
VERSION: Final = 1
#: Questions that are answered in a second, in the mean, and at once.
QUESTIONS_PER_S: Final = 20.0
BURST: Final = 60.0


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client asks.

    Attributes:
        ask: ``status``, ``tenants``, ``explain`` or ``view``.
        pid: Of the process to explain.
        start: First address.
        end: One past the last.
        most_ranges: Of a view.
        first_range: Of a view, in its order.
        order: Of a view's ranges.
        heat: Of a view: with its heat map.
        version: Of the question.
    """

    ask: Literal["status", "tenants", "explain", "view"]
    pid: int | None = None
    start: int | None = None
    end: int | None = None
    most_ranges: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 64
    first_range: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] = 0
    order: Literal["heat", "size", "address"] = "heat"
    heat: bool = False
    version: int = VERSION


Answer = Callable[[Question], Mapping[str, Any] | msgspec.Raw]


class ExplainSocket:
    """Serves questions in a thread of its own until it is closed.

    Args:
        path: Of the socket; one that a dead daemon has left is replaced.
        answer: Makes an answer; called in the thread, one question at a time.

    Raises:
        UnsupportedError: The path is too long for a socket.
        NotPermittedError: It cannot be made there.
    """

    def __init__(self, path: Path, answer: Answer) -> None:
        if len(os.fsencode(path)) >= _MOST_PATH:
            raise UnsupportedError(
                f"{path}: too long for a socket, expected below {_MOST_PATH} bytes",
                hint="set ISOTHERM_RUN_DIRECTORY to a shorter one",
            )
        self.path = path
        self._answer = answer
        self._tokens, self._filled_s = BURST, time.monotonic()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            _bind_private(self._socket, path)
            self._socket.listen(8)
        except OSError as error:
            self._socket.close()
            raise NotPermittedError(f"{path}: {error.strerror}") from None
        self._closing = False
        self._thread = threading.Thread(
            target=self._serve, name="explain-socket", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving and remove the socket; may be called again."""
        if self._closing:
            return
        self._closing = True
        # accept() does not notice a close; it does notice a visitor.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as visitor:
            visitor.settimeout(CLIENT_S)
            visitor.connect(str(self.path))
        self._thread.join(2 * CLIENT_S)
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while not self._closing:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                if self._closing:
                    return
                client.settimeout(CLIENT_S)
                # A client that goes away hurts nobody but itself.
                with contextlib.suppress(OSError):
                    client.sendall(self._reply(client) + b"\n")
                    client.shutdown(socket.SHUT_WR)
                    for _ in range(_MOST_READS):  # of a question that was too long
                        if not client.recv(1 << 16):
                            break

    def _reply(self, client: socket.socket) -> bytes:
        from isotherm.observability.jsonable import encode_json  # noqa: PLC0415

        try:
            # Read first: a socket closed with data unread loses what was sent to it.
            line = _read_line(client, MOST_QUESTION_BYTES)
            _check_peer(client)
            self._take_token()
            question = _parse(line)
            return encode_json({"version": VERSION, "answer": self._answer(question)})
        except IsothermError as error:
            told = {
                "message": error.message,
                "hint": error.hint,
                "exit_code": error.exit_code,
            }
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001  # a question must not end the daemon
            message = f"unexpected {type(error).__name__}: {error}"
            told = {"message": message, "hint": None, "exit_code": 1}
        return encode_json({"version": VERSION, "error": told})

    def _take_token(self) -> None:
        """Count a question.

        Raises:
            IsothermError: There were too many.
        """
        now_s = time.monotonic()
        more = (now_s - self._filled_s) * QUESTIONS_PER_S
        self._tokens, self._filled_s = min(BURST, self._tokens + more), now_s
        if self._tokens < 1:
            raise IsothermError(
                f"more than {QUESTIONS_PER_S:g} questions a second",
                hint="wait a moment, then ask again",
            )
        self._tokens -= 1


class _Told(msgspec.Struct):
    """An error as a daemon tells it."""

    message: str
    hint: str | None = None
    exit_code: int = 1


class _Reply(msgspec.Struct):
    """A document of the daemon, its answer left as it came."""

    answer: msgspec.Raw = msgspec.Raw()
    error: _Told | None = None


#: An escape of JSON, of what a terminal obeys in its group; or such a character.
_ESCAPE: Final = re.compile(
    rb"\\(?:(u00(?:0[0-8b-cBCe-fEF]|1[0-9a-fA-F]|7[fF]|[89][0-9a-fA-F]))|.)"
    rb"|\x7f|\xc2[\x80-\x9f]",
    re.DOTALL,
)


def _harmless(line: bytes) -> bytes:
    """Return a document without characters that a terminal obeys.

    A daemon may be another user's than who asks it: root asks sessions.
    """
    return _ESCAPE.sub(
        lambda found: found[0] if found[0][:1] == b"\\" and not found[1] else b"?",
        line,
    )


def ask(path: Path, question: Question, timeout_s: float = 30.0) -> dict[str, Any]:
    """Ask a daemon and return its answer.

    Raises:
        TargetGoneError: Nobody listens there.
        NotPermittedError: It is another user's.
        IsothermError: What the daemon raised.
    """
    data = ask_raw(path, question, timeout_s)
    try:
        answer: dict[str, Any] = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise IsothermError(f"{path}: not an answer: {error}") from None
    return answer


def ask_raw(path: Path, question: Question, timeout_s: float = 30.0) -> bytes:
    """Ask a daemon and return its answer as JSON, to be handed on.

    Args:
        path: Of its socket.
        question: What to ask.
        timeout_s: How long to wait.

    Raises:
        TargetGoneError: Nobody listens there.
        NotPermittedError: It is another user's.
        IsothermError: What the daemon raised.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.settimeout(timeout_s)
        try:
            _connect(server, path)
            server.sendall(msgspec.json.encode(question) + b"\n")
            line = _read_line(server, MOST_ANSWER_BYTES)
        except PermissionError:
            raise NotPermittedError(
                f"{path}: the daemon is another user's", hint="run as that user or root"
            ) from None
        except (FileNotFoundError, ConnectionError):
            raise TargetGoneError(f"{path}: no daemon answers here") from None
        except OSError as error:
            raise IsothermError(f"{path}: {error}") from None
    try:
        reply = msgspec.json.decode(_harmless(line), type=_Reply)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IsothermError(f"{path}: not an answer: {error}") from None
    if reply.error is not None:
        raise _as_raised(reply.error)
    return bytes(reply.answer)


def _as_raised(told: _Told) -> IsothermError:
    kinds: dict[int, type[IsothermError]] = {
        2: UsageError,
        3: UnsupportedError,
        4: NotPermittedError,
        5: TargetGoneError,
    }
    kind = kinds.get(told.exit_code, IsothermError)
    return kind(told.message, hint=told.hint)


def _connect(server: socket.socket, path: Path) -> None:
    """Connect to this very socket, not to one that a link there names.

    The folder is the daemon's user's, who may put anything there.

    Raises:
        OSError: As connect(2).
    """
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_ISLNK(os.fstat(file).st_mode):
            raise PermissionError(errno.ELOOP, os.strerror(errno.ELOOP))
        server.connect(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


def _bind_private(server: socket.socket, path: Path) -> None:
    """Bind so that nobody else can connect, not even for a moment.

    The umask is the whole process's: another thread that makes a file meanwhile
    makes it private.
    """
    before = os.umask(0o177)
    try:
        server.bind(str(path))
    finally:
        os.umask(before)


def _check_peer(client: socket.socket) -> None:
    _, uid, _ = _UCRED.unpack(
        client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    if uid not in (0, os.geteuid()):
        raise NotPermittedError(f"user {uid} may not ask this daemon")


def _parse(line: bytes) -> Question:
    try:
        question = msgspec.json.decode(line, type=Question)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"question: {error}") from None
    if question.version != VERSION:
        raise UsageError(
            f"question: of version {question.version}, expected {VERSION}",
            hint="the daemon and who asks are of different versions of isotherm",
        )
    return question


def _read_line(end: socket.socket, most: int) -> bytes:
    """Return what comes before a newline or the end.

    Raises:
        UsageError: It is longer than ``most``.
    """
    parts: list[bytes] = []
    total = 0
    while total <= most:
        part = end.recv(1 << 16)
        if not part:
            return b"".join(parts)
        line, newline, _ = part.partition(b"\n")
        parts.append(line)
        total += len(line)
        if newline:
            return b"".join(parts)
    raise UsageError(f"longer than {most} bytes, expected one line")
