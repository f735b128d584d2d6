"""JSON of results: numpy numbers count as numbers."""

from typing import Any

import msgspec


def encode_json(value: Any, *, indent: int | None = None) -> bytes:
    """Return JSON; numpy scalars and arrays are written as what they hold.

    Raises:
        TypeError: Something else that JSON does not know.
    """
    text = msgspec.json.encode(value, enc_hook=_plain)
    return text if indent is None else msgspec.json.format(text, indent=indent)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy scalar or array, without importing numpy
        return value.tolist()
    raise TypeError(f"JSON: cannot write a {type(value).__name__}")
