"""A skewed client for redis over a unix socket: pipelined GET and SET."""

import random
import socket
import time
from pathlib import Path

#: Requests sent before the replies are read.
PIPELINE = 50


def _request(*words: bytes) -> bytes:
    head = b"*%d\r\n" % len(words)
    return head + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _connect(path: Path, patience_s: float) -> socket.socket:
    end = time.monotonic() + patience_s
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return connection


class _Replies:
    """Reads replies: simple strings, errors, integers and bulk strings."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rb")

    def skip(self, count: int) -> None:
        for _ in range(count):
            line = self._file.readline()
            if line[:1] == b"-":
                raise RuntimeError(line.decode())
            if line[:1] == b"$" and int(line[1:]) >= 0:
                self._file.read(int(line[1:]) + 2)


def drive(path: Path, keys: int, value_bytes: int, requests: int, seed: int) -> None:
    """Fill the server, send skewed requests, move the hot keys half-way, stop it.

    Args:
        path: The server's unix socket.
        keys: Keys that exist.
        value_bytes: Bytes of a value.
        requests: 90 % GET, 10 % SET; ranks follow a power law of exponent -0.8.
        seed: Seed of the draws.
    """
    rng = random.Random(seed)
    connection = _connect(path, 120.0)
    replies = _Replies(connection)
    connection.sendall(
        _request(b"DEBUG", b"POPULATE", b"%d" % keys, b"key", b"%d" % value_bytes)
    )
    replies.skip(1)
    # DEBUG POPULATE numbers keys "key:N"; a fixed shuffle scatters the hot ones.
    order = list(range(keys))
    rng.shuffle(order)
    for start in range(0, requests, PIPELINE):
        if start * 2 // requests == 1 and start - PIPELINE < requests / 2:
            rng.shuffle(order)
        batch = []
        for _ in range(PIPELINE):
            key = b"key:%d" % order[int(keys * rng.random() ** 5)]
            if rng.random() < 0.1:
                batch.append(
                    _request(b"SET", key, bytes([65 + start % 26]) * value_bytes)
                )
            else:
                batch.append(_request(b"GET", key))
        connection.sendall(b"".join(batch))
        replies.skip(PIPELINE)
    connection.sendall(_request(b"SHUTDOWN", b"NOSAVE"))
    connection.close()
