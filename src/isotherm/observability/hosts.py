"""Whether a request names this host, as a browser's address bar does.

A page from elsewhere can have its own name point here (DNS rebinding): its scripts
then read what is served as if it were theirs, and the Host header says that name. An
address in digits is nobody's to point elsewhere.
"""

import socket
from collections.abc import Collection
from ipaddress import ip_address

LOOPBACK = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})


def names_of(listen: str) -> frozenset[str]:
    """Return the names that what listens there goes by, beside its addresses.

    Args:
        listen: What it was told to listen on: an address or a name.
    """
    names = {*LOOPBACK, listen.lower(), socket.gethostname().lower()}
    names |= {name.partition(".")[0] for name in names if not is_address(name)}
    return frozenset(names - {""})


def names_this_host(header: str, names: Collection[str]) -> bool:
    """Return whether a Host header is an address, or one of our names.

    >>> names_this_host("[::1]:8977", ()), names_this_host("LOCALHOST", LOOPBACK)
    (True, True)
    >>> names_this_host("evil.example:80", LOOPBACK), names_this_host("", LOOPBACK)
    (False, False)
    """
    host = header.strip().lower()
    if host.startswith("["):
        host, _, port = host[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = host.partition(":")
    if port and not (port.isascii() and port.isdecimal()):
        return False
    return is_address(host) or host.removesuffix(".") in names


def is_address(text: str) -> bool:
    """Return whether a text is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(listen: str) -> bool:
    """Return whether what listens there is for this host alone.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if listen.lower() in LOOPBACK:
        return True
    return is_address(listen) and ip_address(listen).is_loopback
