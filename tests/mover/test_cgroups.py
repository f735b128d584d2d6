"""Where a cgroup is in its hierarchy, and who says to be in it."""

from pathlib import Path

import pytest

from isotherm.mover.cgroups import Place, derive_places

MOUNTS = """\
30 23 0:26 / {root}/unified rw - cgroup2 cgroup2 rw,nsdelegate
31 23 0:27 / {root}/memory rw,nosuid shared:9 - cgroup cgroup rw,memory
32 23 0:28 /pod {root}/inner rw - cgroup2 cgroup2 rw
40 23 0:30 / /proc rw - proc proc rw
"""


def test_directories_are_found_in_their_mounts(tmp_path: Path) -> None:
    """Of version 2, of a controller of version 1, and where only a part is mounted."""
    groups = [tmp_path / "unified/db/a", tmp_path / "memory/x", tmp_path / "inner/y"]
    for path in groups:
        path.mkdir(parents=True)
    places = derive_places(groups, MOUNTS.format(root=tmp_path))
    assert (
        Place(frozenset(), "/db/a"),
        Place(frozenset({"memory"}), "/x"),
        Place(frozenset(), "/pod/y"),
    ) == places


def test_what_is_no_cgroup_has_no_place(tmp_path: Path) -> None:
    """It is left to who reads its members."""
    assert () == derive_places([tmp_path], MOUNTS.format(root=tmp_path / "cg"))


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("5:memory:/x\n0::/db/a\n", True),
        ("0::/db/a/below\n", True),
        ("0::/db/ab\n", False),
        ("0::/db\n", False),
        ("5:memory:/db/a\n0::/\n", False),
        ("0::/t/x:0::/db/a\n", False),
        ("", False),
    ],
)
def test_a_process_says_where_it_is(text: str, inside: bool) -> None:
    """Its own path in the same hierarchy counts, or one below; no look-alike."""
    assert inside == Place(frozenset(), "/db/a").holds(text)


@pytest.mark.parametrize(
    ("path", "text", "inside"),
    [
        ("/", "0::/", True),
        ("/", "0::/a", True),
        ("/", "0::/..", False),
        ("/", "0::/../b", False),
        ("/..", "0::/../b", True),
        ("/..", "0::/../../c", False),
    ],
)
def test_beyond_the_root_of_a_namespace_is_outside(
    path: str, text: str, inside: bool
) -> None:
    """A container's root holds what is in the container, not what is beside it."""
    assert inside == Place(frozenset(), path).holds(text)
