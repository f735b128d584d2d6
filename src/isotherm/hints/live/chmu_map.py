"""Where memory of CXL devices stands in the host, as sysfs tells it.

A region names its endpoint decoders by position (``target0``, ``target1``, ...); a
decoder says where in its device's memory it begins (``dpa_resource``); the endpoint
that it belongs to names the device (``uport``). Decoders whose host arithmetic is
not modulo cannot be told from others here.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isotherm.hints.interleave import Window

DEVICES: Final = Path("sys/bus/cxl/devices")


@dataclass(frozen=True, slots=True)
class Target:
    """A device's part in a region.

    Attributes:
        memory: Its memory device, ``mem0``.
        window: Where its memory stands.
    """

    memory: str
    window: Window


@dataclass(frozen=True, slots=True)
class Region:
    """A region of host memory on CXL devices.

    Attributes:
        name: ``region0``.
        targets: Its devices by position.
    """

    name: str
    targets: tuple[Target, ...]


def read_regions(root: Path = Path("/")) -> tuple[list[Region], list[str]]:
    """Return the regions that are in use, and what is wrong with others.

    Args:
        root: Root of the host's files.
    """
    folder = root / DEVICES
    try:
        names = sorted(n for n in os.listdir(folder) if n.startswith("region"))  # noqa: PTH208
    except OSError:
        return [], []
    regions, wrong = [], []
    for name in names:
        try:
            if _text(folder / name / "commit", "1") == "0":
                continue
            regions.append(_region(folder, name))
        except (OSError, ValueError) as error:
            wrong.append(f"{name}: {error}")
    return regions, wrong


def _region(folder: Path, name: str) -> Region:
    base = folder / name
    host, size = _number(base / "resource"), _number(base / "size")
    ways = _number(base / "interleave_ways")
    granularity = _number(base / "interleave_granularity")
    if not 1 <= ways <= 16:
        raise ValueError(f"interleave_ways: expected 1 to 16, got {ways}")
    targets = []
    for position in range(ways):
        decoder = _text(base / f"target{position}")
        if not decoder or "/" in decoder or decoder.startswith("."):
            raise ValueError(f"target{position}: expected a decoder, got {decoder!r}")
        at = (folder / decoder).resolve()
        device = _number(at / "dpa_resource")
        window = Window(host, size, ways, granularity, position, device)
        targets.append(Target((at.parent / "uport").resolve().name, window))
    return Region(name, tuple(targets))


def _text(path: Path, otherwise: str | None = None) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        if otherwise is None:
            raise
        return otherwise
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: {error.reason}") from error


def _number(path: Path) -> int:
    text = _text(path)
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"{path.name}: expected a number, got {text!r}") from None
