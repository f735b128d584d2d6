"""Python's compiled files for a Debian image, as its packages' scripts make them."""

import importlib.util
import marshal
import platform
import re
from collections.abc import Iterator, Mapping

_LIBRARY = re.compile(
    r"^usr/lib/python(3\.\d+)/(?!(test|idlelib|lib2to3|tkinter|turtledemo)/)"
)
_UNCHECKED = (0b01).to_bytes(4, "little")
"""Of PEP 552: valid whatever the time of its source, which an image has one of."""


def compile_python(sources: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Give name and contents of compiled files of the standard library.

    Only where the Python of the image is of the same version as this one; else it
    compiles for itself, emulated, what it imports.

    Args:
        sources: Names in the image, and contents.
    """
    version = ".".join(platform.python_version_tuple()[:2])
    for name, source in sources.items():
        found = _LIBRARY.match(name)
        if found is None or found[1] != version:
            continue
        code = marshal.dumps(compile(source, f"/{name}", "exec", dont_inherit=True))
        head = importlib.util.MAGIC_NUMBER + _UNCHECKED
        data = head + importlib.util.source_hash(source) + code
        yield importlib.util.cache_from_source(name), data
