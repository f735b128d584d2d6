"""Metrics as text: addresses, types, and what a scrape reads."""

import urllib.request

import pytest

from isotherm.core.errors import UnsupportedError, UsageError
from isotherm.observability.metrics import PORT, Family, MetricsServer, parse_listen

pytest.importorskip("prometheus_client")


def figures() -> tuple[Family, ...]:
    """Return a counter and a gauge."""
    return (
        Family("moved_pages", "counter", "Pages.", ("direction",), {("up",): 3.0}),
        Family("share_ratio", "gauge", "Share.", (), {(): 0.25}),
    )


def scrape(server: MetricsServer) -> str:
    """Return what a scrape reads."""
    host, port = server.address
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=30) as page:
        return page.read().decode()


def test_a_scrape_reads_names_types_and_values() -> None:
    """As the text format of Prometheus writes them, with this process's own."""
    with MetricsServer("127.0.0.1:0", figures) as server:
        lines = scrape(server).splitlines()
    assert 'isotherm_moved_pages_total{direction="up"} 3.0' in lines
    assert "# TYPE isotherm_moved_pages_total counter" in lines
    assert "isotherm_share_ratio 0.25" in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)


def test_every_scrape_reads_anew() -> None:
    """Nothing is kept between two scrapes."""
    value = iter((1.0, 2.0))

    def changing() -> tuple[Family, ...]:
        return (Family("n", "gauge", "N.", (), {(): next(value)}),)

    with MetricsServer("127.0.0.1:0", changing) as server:
        assert ["isotherm_n 1.0", "isotherm_n 2.0"] == [
            line
            for _ in range(2)
            for line in scrape(server).splitlines()
            if line.startswith("isotherm_n ")
        ]


def test_a_taken_port_is_told() -> None:
    """In one sentence with what to do."""
    with MetricsServer("127.0.0.1:0", figures) as server:
        host, port = server.address
        with pytest.raises(UnsupportedError, match=f"cannot listen on {host}:{port}"):
            MetricsServer(f"{host}:{port}", figures)


def test_closing_frees_the_port() -> None:
    """A daemon that ends leaves nobody who answers."""
    server = MetricsServer("127.0.0.1:0", figures)
    host, port = server.address
    server.close()
    with MetricsServer(f"{host}:{port}", figures) as again:
        assert (host, port) == again.address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":1", ("127.0.0.1", 1)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),  # noqa: S104  # only parsed
        ("[::1]", ("::1", PORT)),
        ("host", ("host", PORT)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    """Without a host: this one only."""
    assert expected == parse_listen(text)


@pytest.mark.parametrize("text", [":", "a:b", "a:65536", "a:-1"])
def test_wrong_addresses(text: str) -> None:
    """A port is a number that fits."""
    with pytest.raises(UsageError, match="expected HOST:PORT"):
        parse_listen(text)
