"""The ranges that a dry run names."""

import numpy as np

from isotherm.daemon.planned import MOST_RANGES, Planned
from isotherm.daemon.summary import describe
from isotherm.migration.ranks import rank_column


def test_a_dry_run_names_the_largest_ranges_of_its_plan(playing):
    """Each is of neighbours that go the same way, is in the plan, and is said."""
    planned = Planned()
    played = playing(dry_run=True, observers=(planned,))
    played.service.run(played.wait, 10.0)
    wished = played.service.gate.wished
    node = played.machine.placement()
    rank = rank_column(played.machine.topology, 256).astype(np.int64)
    to = dict(zip(wished.page.tolist(), wished.node.tolist(), strict=True))
    assert 0 < len(planned.ranges) <= MOST_RANGES
    sizes = [what["bytes"] for what in planned.ranges]
    assert sorted(sizes, reverse=True) == sizes
    for what in planned.ranges:
        first, pages = what["start"] // 4096, what["bytes"] // 4096
        for page in range(first, first + pages):
            assert what["to_node"] == to[page]
            assert what["from_node"] == node[page]
        down = rank[what["to_node"]] > rank[what["from_node"]]
        assert ("demote" if down else "promote") == what["direction"]
        # It ends where it ends for a reason.
        for page in (first - 1, first + pages):
            same = to.get(page) == what["to_node"] and node[page] == what["from_node"]
            assert not same
    most = planned.ranges[0]
    result = played.service.result() | {"planned": planned.ranges, "restored": []}
    lines = [line for line in describe(result) if f"  {most['start']:x}  " in line]
    assert len(lines) == 1
    assert lines[0].startswith(most["direction"])
    assert len(lines[0]) <= 80
