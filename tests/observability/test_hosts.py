"""Whether a request names this host."""

import socket

import pytest

from isotherm.observability.hosts import names_of, names_this_host


@pytest.mark.parametrize(
    "header",
    [
        "127.0.0.1", "127.0.0.1:9977", "[::1]:9977", "[::1]", "10.0.0.7:80",
        "localhost", "LOCALHOST:9977", "localhost.", "::1",
    ],
)  # fmt: skip
def test_addresses_and_our_own_names(header: str) -> None:
    """Nobody can have digits point elsewhere."""
    expected = header != "::1"  # of a browser it comes in brackets
    assert expected == names_this_host(header, names_of("127.0.0.1"))


@pytest.mark.parametrize(
    "header",
    [
        "", "evil.example", "evil.example:9977", "localhost.evil.example", "[::1",
        "localhost:80@evil.example", "127.0.0.1.evil.example", "localhost:x", "[x]",
        "xlocalhost", "1.2.3",
    ],
)  # fmt: skip
def test_names_of_others(header: str) -> None:
    """Whatever they look like."""
    expected = header == "[::1"  # an address all the same
    assert expected == names_this_host(header, names_of("127.0.0.1"))


def test_who_listens_elsewhere_goes_by_its_name() -> None:
    """By the one that it was given, and the host's own."""
    names = names_of("db.example")
    for name in ("db.example:80", "db", socket.gethostname(), "localhost"):
        assert names_this_host(name, names)
    assert not names_this_host("other.example", names)
    assert not names_this_host(f"{socket.gethostname()}.evil", names_of("0.0.0.0"))  # noqa: S104  # only a name
