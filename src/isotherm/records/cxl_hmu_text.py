"""Hot lists as ``perf report -D`` prints them, back into the words of the stream.

A block begins with ``. ... CXL_HMU data: size N bytes``; its packets follow as
``Header 0: units: 29c counter_width 10``, ``Header 1 : deadbeef`` and one entry a
line, all figures hexadecimal but the size. Other events stand between blocks.
"""

import re
from itertools import zip_longest
from typing import Final

import numpy as np

from isotherm.records.cxl_hmu import HotUnits, Words, decode_words

_COLOUR: Final = re.compile(rb"\x1b\[[0-9;]*m")
_BLOCK: Final = re.compile(rb"CXL_HMU data: size (\d{1,20}) bytes")
#: What may stand in a block, a line each.
_LINE: Final = re.compile(
    rb"^[ .]*(?:Header 0: units: ([0-9a-f]{1,4}) counter_width ([0-9a-f]{1,2})"
    rb"|Header 1 ?: (deadbeef)"
    rb"|([0-9a-f]{16}))\s*$"
)


def words_of_text(text: bytes) -> tuple[Words, int]:
    """Return the words of all blocks of a dump, uint64[n], and how many are missing.

    A block that holds fewer words than its first line says has lost the others;
    what stands in it beyond them, or reads as nothing of a packet, ends it.

    Args:
        text: What ``perf report -D`` printed, or a part of it.
    """
    text = _COLOUR.sub(b"", text)
    words: list[int] = []
    missing = 0
    blocks = list(_BLOCK.finditer(text))
    for block, following in zip_longest(blocks, blocks[1:]):
        told = min(int(block[1]) // 8, 1 << 40)
        end = len(text) if following is None else following.start()
        found = _block(text[block.end() : end], told)
        missing += told - len(found)
        words += found
    return np.array(words, np.uint64), missing


def _block(text: bytes, most: int) -> list[int]:
    words: list[int] = []
    for line in text.split(b"\n"):
        if len(words) >= most:
            break
        found = _LINE.match(line)
        if found is None:
            if line.strip():
                break
            continue
        units, width, magic, entry = found.groups()
        if units is not None:
            words.append(int(units, 16) | int(width, 16) << 16)
        else:
            words.append(int(magic or entry, 16))
    return words


def decode_text(text: bytes, counter_width: int | None = None) -> HotUnits:
    """Return the entries of a dump of one event, in the order that they stand in.

    Args:
        text: What ``perf report -D`` printed, or a part of it.
        counter_width: As for `decode_words`.
    """
    words, missing = words_of_text(text)
    found = decode_words(words, counter_width)
    return HotUnits(
        found.unit,
        found.count,
        found.counter_width,
        found.packets,
        found.lost + missing,
    )
