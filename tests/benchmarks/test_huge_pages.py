"""The table of page sizes: who is ahead, and which bars are missed."""

from typing import Any

import huge_pages
from huge_pages import ALIKE, MODES, RATIOS, SKEWED, machine_of, table


def rows(slow: dict[str, float], machine: str = "to scale") -> dict[Any, list[Any]]:
    """Return the rows of every cell of a machine with slowdowns by mode."""
    rest = {"fast": 0.5, "walks": 0.1, "huge": 0.5, "splits": 0, "collapses": 0}
    return {
        (machine, workload, ratio, mode): [{"slowdown": slow[mode], **rest}]
        for workload in (*SKEWED, *ALIKE)
        for ratio in RATIOS
        for mode in MODES
    }


def slowdowns(priced: float) -> dict[str, float]:
    """Return slowdowns of which the best fixed ones are 1.5."""
    fixed = {"never-split": 1.6, "always-split": 1.5, "always-huge": 1.5}
    return {"priced": priced, **fixed}


def test_a_bar_is_missed_where_priced_is_not_ahead() -> None:
    """Behind the better of both on skewed cells, by more than 1 % on the others."""
    _, missed = table(rows(slowdowns(1.4)))
    assert [] == missed
    _, missed = table(rows(slowdowns(1.51)))
    assert len(SKEWED) * len(RATIOS) == len(missed)
    _, missed = table(rows(slowdowns(1.52)))
    assert (len(SKEWED) + len(ALIKE)) * len(RATIOS) == len(missed)


def test_only_the_tlb_to_scale_has_bars() -> None:
    """Another machine's rows are shown and judge nothing."""
    text, missed = table(rows(slowdowns(2.0), "1536 entries"))
    assert [] == missed
    assert (len(SKEWED) + len(ALIKE)) * len(RATIOS) == text.count("1536 entries")


def test_machines_differ_in_the_entries_that_they_hold() -> None:
    """One set of a model, all entries of a host of that size."""
    held = [
        machine_of(name, 65536).huge_pages.entries_of(
            65536 * 4096 / (machine_of(name, 65536).reference_gib * (1 << 30))
        )
        for name in huge_pages.MACHINES
    ]
    assert [12, 1536] == held
