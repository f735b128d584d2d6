"""Suggestions for a name that nobody knows."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or nothing where nothing is near.

    >>> did_you_mean("isoterm", ["isotherm", "tpp"])
    "; did you mean 'isotherm'?"
    >>> did_you_mean("xyz", ["isotherm", "tpp"])
    ''
    """
    near = difflib.get_close_matches(name, [str(k) for k in known], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
