"""A workload in a TOML file: one generator, or a mixture of several."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isotherm.core.errors import ConfigError
from isotherm.workloads.build import build
from isotherm.workloads.spec import parse_generator
from isotherm.workloads.stream import Generated


def read_workload(
    path: Path, pages: int, seed: int, options: Mapping[str, object] | None = None
) -> Generated:
    """Return the workload that a TOML file describes.

    Args:
        path: The file.
        pages: Footprint.
        seed: >= 0.
        options: Parameters that go before the file's.

    Raises:
        ConfigError: The file cannot be read, is not TOML, or does not fit the
            schema; the message names the file and the field.
    """
    fields = _load(path)
    name = str(fields.pop("name", path.stem))
    own = parse_generator({**fields, **(options or {})}, str(path))
    return build(own, name, pages, seed)


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read it: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
