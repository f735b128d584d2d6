"""A fleet of hosts."""

import pytest

from isotherm.core.errors import UsageError
from isotherm.lab.capacity import Need
from isotherm.lab.fleet import host_traces, hosts_need, near
from isotherm.lab.money import ASSUMED, offer
from isotherm.lab.planning import Answer
from isotherm.machine.sim.spec import load_machine

MACHINE = load_machine("dram-cxl")


def answer(host, ratios):
    """Return the answer of a host in which isotherm needs these ratios."""
    needs = [
        Need("isotherm", ratios, [1.05] * len(ratios)),
        Need("first-touch", [1.0] * len(ratios), [1.0] * len(ratios)),
    ]
    return Answer(host, needs, [offer(n, MACHINE, ASSUMED) for n in needs], "")


def test_shares_of_hosts():
    """Ten hosts: half are served by the median, nine by the next to last."""
    answers = [answer(f"h{i}.parquet", [i / 20]) for i in range(1, 11)]
    found = hosts_need(answers, MACHINE, ASSUMED)
    assert [6 / 20, 10 / 20, 10 / 20] == found.rows[0].ratios
    assert 0.5 == found.rows[0].offer.ratio
    assert "h10" in found.advice


def test_a_host_counts_with_its_hungriest_window():
    """0.2 and 0.4 in two windows: 0.4."""
    found = hosts_need([answer("a.parquet", [0.2, 0.4])], MACHINE, ASSUMED)
    assert [0.4] * 3 == found.rows[0].ratios


def test_an_empty_directory(tmp_path):
    """No trace, no answer."""
    with pytest.raises(UsageError, match="no trace"):
        host_traces(tmp_path)
    with pytest.raises(UsageError, match="expected a directory"):
        host_traces(tmp_path / "none")


def test_a_store_is_fetched_and_left(tmp_path):
    """Its traces and nothing else; the copies go away."""
    (tmp_path / "a.parquet").write_bytes(b"one")
    (tmp_path / "b.parquet").write_bytes(b"two")
    (tmp_path / "notes.txt").write_text("no trace")
    with near(tmp_path.as_uri()) as folder:
        assert ["a.parquet", "b.parquet"] == [p.name for p in host_traces(folder)]
        assert b"two" == (folder / "b.parquet").read_bytes()
    assert not folder.exists()
    with near(str(tmp_path)) as folder:
        assert tmp_path == folder


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("file:///nonexistent/hosts", "there is no such place"),
        ("nonsense://a/b", "nonsense"),
    ],
)
def test_a_store_that_is_none(address, said):
    """In one sentence that names it."""
    with pytest.raises(UsageError, match=said), near(address):
        pass


def test_a_store_without_a_trace(tmp_path):
    """As an empty directory."""
    with pytest.raises(UsageError, match="no trace"), near(tmp_path.as_uri()):
        pass
