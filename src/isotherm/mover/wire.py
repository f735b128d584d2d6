"""The messages between a session without rights and its mover.

One request, one answer, over a pair of ``SOCK_SEQPACKET`` sockets: a message comes
whole or not at all. Both begin with a header of 32 bytes, little-endian:

===========  ====  ========================================================
``magic``    4 B   ``ISOM``
``version``  u16   of these messages: 1
``op``       u16   what is asked (`Op`); echoed in the answer
``number``   u32   of the request; echoed in the answer
``count``    u32   of rows in the columns that follow
``handle``   u64   a process that was admitted; 0: none
``value``    i64   an argument; in an answer the result, or ``-errno``
===========  ====  ========================================================

What follows is columns (``uint64`` addresses, ``int32`` nodes), text or JSON, as the
operation says. Descriptors travel only from the mover to the session.
"""

import array
import errno
import json
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

MAGIC: Final = b"ISOM"
VERSION: Final = 1
HEADER: Final = struct.Struct("<4sHHIIQq")
#: A longer message is refused unread.
MOST_BYTES: Final = 1 << 17
#: Pages of one request; 12 bytes each.
MOST_PAGES: Final = 8192
#: Ranges of one request; 16 bytes each.
MOST_RANGES: Final = 4096
#: Of names, values and JSON.
MOST_TEXT_BYTES: Final = 4096
#: Of an answer that is read out of a file.
MOST_ANSWER_BYTES: Final = 1 << 16
#: Of the sockets: a few messages fit.
BUFFER_BYTES: Final = 1 << 20
#: A session may ask for so much at once: the loop, the thread that moves, a source.
CHANNELS: Final = 3


class Op(IntEnum):
    """What can be asked for."""

    HELLO = 1
    ADMIT = 2
    RELEASE = 3
    READ = 4
    OPEN = 5
    MOVE = 6
    WHERE = 7
    MADVISE = 8
    TOUCH = 9
    SHARES = 10
    RUN_ON = 11
    EVENT = 12
    OWN_PAGEMAP = 13
    READ_FILE = 14
    WRITE_FILE = 15
    CHANGE = 16
    MADE = 17
    RESTORE = 18
    LOCK = 19
    UNLOCK = 20
    NOTIFY = 21
    CLEAR = 22


class ProtocolError(OSError):
    """A message that is none; EPROTO or EMSGSIZE."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer.

    Attributes:
        op: What is asked for.
        number: Of the request.
        count: Rows of the columns.
        handle: A process.
        value: Argument, or result.
        body: What follows the header.
    """

    op: int
    number: int = 0
    count: int = 0
    handle: int = 0
    value: int = 0
    body: bytes = b""

    def pack(self) -> bytes:
        """Return it as bytes."""
        head = HEADER.pack(
            MAGIC,
            VERSION,
            self.op,
            self.number,
            self.count,
            self.handle,
            self.value,
        )
        return head + self.body


def unpack(data: bytes) -> Message:
    """Return the message in some bytes.

    Raises:
        ProtocolError: They are no message of this version.
    """
    if len(data) < HEADER.size:
        raise ProtocolError(errno.EPROTO, f"message of {len(data)} bytes")
    magic, version, op, number, count, handle, value = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise ProtocolError(errno.EPROTO, f"message {magic!r} of version {version}")
    return Message(op, number, count, handle, value, data[HEADER.size :])


def text_of(body: bytes) -> str:
    """Return the text of a request.

    Raises:
        ProtocolError: It is too long, no UTF-8, or holds what no name holds.
    """
    if len(body) > MOST_TEXT_BYTES:
        raise ProtocolError(errno.EMSGSIZE, f"text of {len(body)} bytes")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise ProtocolError(errno.EPROTO, "no UTF-8") from None
    if "\0" in text:
        raise ProtocolError(errno.EPROTO, "a zero in a text")
    return text


def json_of(body: bytes) -> Any:  # of any shape: the reader checks it
    """Return the JSON document of a request.

    Raises:
        ProtocolError: It is none.
    """
    try:
        return json.loads(text_of(body))
    except (ValueError, RecursionError):
        raise ProtocolError(errno.EPROTO, "no JSON") from None


def plain(message: Message) -> None:
    """Refuse a body where none belongs.

    Raises:
        ProtocolError: There is one.
    """
    if message.body or message.count:
        raise ProtocolError(errno.EPROTO, "more than was expected")


def rows(message: Message, row_bytes: int, most: int) -> int:
    """Return the rows of a message's columns.

    Raises:
        OSError: EPROTO: the body is of another size; EMSGSIZE: there are too many.
    """
    count = message.count
    if count > most:
        raise ProtocolError(errno.EMSGSIZE, f"{count} rows")
    if len(message.body) != count * row_bytes:
        raise ProtocolError(errno.EPROTO, f"{count} rows are of another size")
    return count


def two_texts(body: bytes) -> tuple[str, str]:
    """Return path and value of a request, which a newline parts.

    Raises:
        ProtocolError: There are not two.
    """
    path, newline, value = text_of(body).partition("\n")
    if not newline or "\n" in value:
        raise ProtocolError(errno.EPROTO, "a path and a value")
    return path, value


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a channel: the mover's and the session's."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    return ends


def receive(end: socket.socket, room: bytearray) -> tuple[bytes, bool]:
    """Return the next message, and whether it was more than a message may be.

    Descriptors that come along are never installed: there is no room for them, and
    the kernel drops them. Empty at the end of the channel.

    Args:
        end: Of the channel.
        room: MOST_BYTES, overwritten.

    Raises:
        OSError: The channel is broken.
    """
    size, _, flags, _ = end.recvmsg_into([room])
    more = bool(flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC))
    return bytes(memoryview(room)[:size]), more


def receive_with(end: socket.socket) -> tuple[bytes, list[int]]:
    """Return an answer and the descriptors that come with it, closed on exec.

    Raises:
        OSError: The channel is broken.
    """
    fds = array.array("i")
    data, ancillary, _, _ = end.recvmsg(
        MOST_BYTES, socket.CMSG_SPACE(fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)


def send(end: socket.socket, message: Message, fd: int = -1) -> None:
    """Send a message, and a descriptor with it.

    Raises:
        OSError: The channel is broken.
    """
    data = message.pack()
    if fd < 0:
        end.sendall(data)
    else:
        rights = array.array("i", [fd])
        end.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
