"""Metrics: families of figures that the layers below hand up, and their text.

A family is a name with its help, and one value for each set of labels. Names end in
their unit (``_bytes``, ``_seconds``, ``_ratio``), counters in ``_total``, as
Prometheus wants them; nothing here knows who collects the text.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Thread
from typing import TYPE_CHECKING, Final, Literal, Self

from isotherm.core.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

#: Where no port is named; not taken in Prometheus' list of exporters' ports.
PORT: Final = 9977


@dataclass(frozen=True, slots=True)
class Family:
    """One figure, for each set of labels.

    Attributes:
        name: Without the prefix ``isotherm_`` and without ``_total``.
        kind: A counter only grows while a daemon lives.
        help: One sentence.
        labels: Names of labels.
        rows: Values by labels' values, in the order of ``labels``.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()
    rows: Mapping[tuple[str, ...], float] = field(default_factory=dict)


#: Returns what there is to say now; called at every scrape, in a thread of its own.
Figures = Callable[[], tuple[Family, ...]]


def one(
    name: str, kind: Literal["counter", "gauge"], text: str, value: float
) -> Family:
    """Return a family of one value without labels."""
    return Family(name, kind, text, (), {(): value})


class MetricsServer:
    """Serves metrics over HTTP until it is closed.

    On an address of this host alone requests must name this host, as those of
    ``isotherm serve``: a page from elsewhere cannot have a name of its own point here.

    Args:
        listen: ``HOST:PORT``, ``:PORT`` (this host only) or ``HOST``; port 0: a
            free one, see ``address``.
        figures: What to serve.

    Raises:
        UsageError: ``listen`` is no address.
        UnsupportedError: Nothing can listen there, or prometheus-client is missing.
    """

    def __init__(self, listen: str, figures: Figures) -> None:
        host, port = parse_listen(listen)
        try:
            from prometheus_client import make_wsgi_app  # noqa: PLC0415  # an extra
        except ImportError:
            raise UnsupportedError(
                "metrics need prometheus-client, which is not installed",
                hint="pip install 'isotherm[service]'",
            ) from None
        from isotherm.observability.hosts import (  # noqa: PLC0415  # only here
            is_loopback,
            names_of,
        )
        from isotherm.observability.scraped import (  # noqa: PLC0415  # likewise
            ScrapeServer,
        )

        # Elsewhere any name may be this host's, and anybody reads without one.
        names = names_of(host) if is_loopback(host) else None
        answers = make_wsgi_app(registry_of(figures))
        try:
            self._server = ScrapeServer(host, port, answers, names)
        except OSError as error:
            raise UnsupportedError(
                f"metrics: cannot listen on {host}:{port}: {error.strerror or error}",
                hint="another isotherm may serve there; name another port",
            ) from None
        self._thread = Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Stop serving; may be called again."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving."""
        self.close()


def registry_of(figures: Figures) -> "CollectorRegistry":
    """Return a registry of these figures and of this process's own."""
    from prometheus_client import (  # noqa: PLC0415  # an extra
        CollectorRegistry,
        ProcessCollector,
    )
    from prometheus_client.registry import Collector  # noqa: PLC0415  # likewise

    class Ours(Collector):
        def collect(self) -> "Iterator[Metric]":
            for family in figures():
                yield _as_metric(family)

        def describe(self) -> "Iterator[Metric]":
            return iter(())  # what there is depends on the host

    registry = CollectorRegistry()
    registry.register(Ours())
    ProcessCollector(registry=registry)
    return registry


def _as_metric(family: Family) -> "Metric":
    from prometheus_client.core import (  # noqa: PLC0415  # an extra
        CounterMetricFamily,
        GaugeMetricFamily,
    )

    name, labels = f"isotherm_{family.name}", family.labels
    made: CounterMetricFamily | GaugeMetricFamily
    if family.kind == "counter":
        made = CounterMetricFamily(name, family.help, labels=labels)
    else:
        made = GaugeMetricFamily(name, family.help, labels=labels)
    for values, value in family.rows.items():
        made.add_metric(values, value)
    return made


def parse_listen(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``, ``[HOST]:PORT``, ``:PORT`` or ``HOST``.

    Raises:
        UsageError: It is none of them.

    >>> parse_listen(":9977"), parse_listen("[::1]:80"), parse_listen("10.0.0.7")
    (('127.0.0.1', 9977), ('::1', 80), ('10.0.0.7', 9977))
    """
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(PORT)
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not port.isdecimal() or int(port) > 65535:
        raise UsageError(
            f"metrics: expected HOST:PORT, got {text!r}", hint=f"127.0.0.1:{PORT}"
        )
    return host, int(port)
