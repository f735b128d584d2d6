"""What a run says at its end."""

import errno

from isotherm.daemon.summary import describe, failures

OWN = {
    "mover": "isotherm",
    "duration_s": 60.0,
    "epochs": 59,
    "managed_pages": 262144,
    "dry_run": False,
    "moved_bytes": 48 << 20,
    "promoted_pages": 8192,
    "demoted_pages": 4096,
    "failed": failures({errno.EBUSY: 12}),
    "sources": [
        {"name": "idle-page"},
        {"name": "spe", "frames": {"asked": 50, "said": "49 of 50 frames translated"}},
        {"name": "hca", "frames": {"asked": 0, "said": "0 of 0 frames translated"}},
    ],
    "fast_share": 0.91,
    "fast_share_at_start": 0.4,
    "costs": {"cpu_share": 0.012, "application_s": 0.25, "epoch_s": 2.0},
    "brake": [{}],
    "restored": ["/proc/x: '2' -> '0'"],
}


def test_failures_have_names_and_classes():
    """Most first; an errno that nobody knows is told as it is."""
    found = failures({errno.ENOMEM: 3, errno.EBUSY: 12, 4095: 1})
    assert [
        ("EBUSY", "busy or pinned", 12),
        ("ENOMEM", "no room on the node", 3),
        ("4095", "unknown", 1),
    ] == [(one["name"], one["class"], one["pages"]) for one in found]


def test_a_run_in_words():
    """Every line fits 80 columns and has its units."""
    lines = describe(OWN)
    assert [
        "60.0 s, 59 epochs, 1.00 GiB managed",
        "moved 48.0 MiB: 8192 pages up, 4096 down",
        "failed: 12 tries EBUSY, busy or pinned",
        "spe: 49 of 50 frames translated",
        "about 91% of accesses in fast memory, 40% at the start",
        "took 1.20% of a core, 0.250 s of the target's time; epochs of 2 s at the end",
        "the brake acted 1 times",
        "restored: /proc/x: '2' -> '0'",
    ] == lines
    assert max(map(len, lines)) <= 80


def test_a_dry_run_says_that_it_would():
    """Nothing was moved, and no share is known yet."""
    result = OWN | {"dry_run": True, "fast_share": None, "brake": [], "restored": []}
    assert "would have moved 48.0 MiB: 8192 pages up, 4096 down" in describe(result)


def test_the_kernels_work_in_words():
    """Counts of the whole host, and of every scheme."""
    scheme = {"action": "migrate_hot", "applied_bytes": 1 << 20, "tried_bytes": 4 << 20}
    result = {
        "mover": "kernel",
        "way": "damon",
        "duration_s": 9.0,
        "promoted_pages": 1,
        "demoted_pages": 2,
        "schemes": [scheme],
        "would_write": [{"path": "/proc/x", "now": "0", "new": "2"}],
        "restored": [],
    }
    assert [
        "9.0 s, the kernel moves: damon",
        "would write /proc/x: 0 -> 2",
        "promoted 1 pages, demoted 2, on the whole host",
        "migrate_hot: 1.00 MiB applied of 4.00 MiB tried",
    ] == describe(result)


def test_page_sizes_are_told_where_they_were_asked_for():
    """How many are huge, what was done, and what could not be; else no line."""
    sizes = {"huge_ranges": 7, "collapses": 3, "splits": 1, "failed": {"12": 2}}
    said = "huge pages: 7 at the end, 3 collapsed, 1 split, 2 failed"
    assert said in describe({**OWN, "huge_pages": sizes})
    none = {**sizes, "failed": {}}
    assert said.removesuffix(", 2 failed") in describe({**OWN, "huge_pages": none})
    assert not [line for line in describe(OWN) if line.startswith("huge")]
