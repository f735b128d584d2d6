"""Whether a process is in a cgroup, by its own ``/proc/PID/cgroup``: 15 µs, any size.

A cgroup is named by its directory, a process says a path in a hierarchy; mountinfo
says which is which (proc(5), cgroups(7)).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from isotherm.core.errors import IsothermError
from isotherm.machine.linux.process import Process


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cgroup is.

    Attributes:
        controllers: Of its hierarchy, as ``/proc/PID/cgroup`` lists them; empty for
            version 2.
        path: In the hierarchy.
    """

    controllers: frozenset[str]
    path: str

    def holds(self, text: str) -> bool:
        """Return whether a ``/proc/PID/cgroup`` says so, of it or of one below.

        >>> Place(frozenset(), "/db").holds("0::/db/one")
        True
        >>> Place(frozenset(), "/db").holds("0::/dbase")
        False
        """
        for line in text.splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            named = frozenset(controllers.split(",")) - {""}
            if named == self.controllers:
                below = self.path.rstrip("/")
                inside = path == self.path or path.startswith(f"{below}/")
                # Beyond the root of our cgroup namespace: "/" is not above "/../a".
                return inside and _ups(path) == _ups(self.path)
        return False


def _ups(path: str) -> int:
    """Return how many levels a path goes up to begin with: cgroup_namespaces(7)."""
    parts = path.split("/")[1:]
    return next((i for i, part in enumerate(parts) if part != ".."), len(parts))


def derive_places(cgroups: Iterable[Path], mountinfo: str) -> tuple[Place, ...]:
    """Return where cgroups are; one whose mount is not found is left out.

    Args:
        cgroups: Their directories.
        mountinfo: What ``/proc/self/mountinfo`` says.
    """
    mounts: list[tuple[Path, str, frozenset[str]]] = []
    for line in mountinfo.splitlines():
        fields, _, after = line.partition(" - ")
        words, more = fields.split(), after.split()
        if len(words) < 5 or len(more) < 3 or more[0] not in ("cgroup", "cgroup2"):
            continue
        controllers = frozenset[str]()
        if more[0] == "cgroup":
            # The rest of the options is the hierarchy's, not a controller's.
            known = frozenset(("rw", "ro", "xattr", "clone_children", "noprefix"))
            controllers = frozenset(more[2].split(",")) - known
        mounts.append((Path(words[4]), words[3], controllers))
    places = []
    for cgroup in cgroups:
        at = cgroup.resolve()
        found = [one for one in mounts if at.is_relative_to(one[0])]
        if found:
            mount, inside, controllers = max(found, key=lambda one: len(one[0].parts))
            path = "/" + str(Path(inside, at.relative_to(mount))).strip("/")
            places.append(Place(controllers, path))
    return tuple(places)


def is_in(process: Process, places: Iterable[Place]) -> bool:
    """Return whether a process says that it is in one of these."""
    try:
        text = process.read_text("cgroup")
    except IsothermError:
        return False
    return any(place.holds(text) for place in places)
