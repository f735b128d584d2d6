"""Real traces of other projects: footprints and references known beforehand.

A ramulator line counts one reference for its read and one for its write-back;
Mooncake one for each hash id; SPEC and LIRS one a line.
"""

from pathlib import Path

import numpy as np
import pytest

from isotherm.trace.format import TraceReader
from isotherm.trace.importing import import_trace

#: File, format, references, pages of 4 KiB, seconds.
KNOWN = [
    ("spec2000-gcc.trace.gz", "spec", 515683, 294, None),
    ("spec2000-gzip.trace.gz", "spec", 481044, 39856, None),
    ("spec2000-mcf.trace.gz", "spec", 727230, 1442, None),
    ("spec2000-swim.trace.gz", "spec", 303193, 135, None),
    ("ramulator-403.gcc.gz", "ramulator", 50024, 1306, None),
    ("ramulator-464.h264ref.gz", "ramulator", 375306, 857, None),
    ("ramulator-445.gobmk.gz", "ramulator", 178104, 2104, None),
    ("ramulator-444.namd.gz", "ramulator", 24264, 494, None),
    ("mooncake-conversation.jsonl.gz", "mooncake", 288500, 182790, 3537),
    ("lirs-2_pools.trace.gz", "lirs", 100000, 9939, None),
    ("lirs-loop.trace.gz", "lirs", 505500, 1011, None),
    ("lirs-multi3.trace.gz", "lirs", 30241, 7454, None),
    ("lirs-scan.trace.gz", "lirs", 50025, 2001, None),
]


@pytest.mark.parametrize(("name", "form", "references", "pages", "seconds"), KNOWN)
@pytest.mark.slow
def test_known_counts(
    tmp_path: Path,
    shared_dir: Path,
    name: str,
    form: str,
    references: int,
    pages: int,
    seconds: int | None,
) -> None:
    """Format, references, footprint and duration, in the metadata and in the rows."""
    source = shared_dir / "traces" / name
    if not source.exists():
        pytest.skip(f"no recorded trace {source}")
    info = import_trace(source, tmp_path / "t.parquet")
    assert (form, references, pages) == (
        info.provenance.source,
        info.accesses,
        info.pages,
    )
    page = np.concatenate([c.page for c in TraceReader(Path(info.path)).chunks()])
    assert (references, pages) == (len(page), len(np.unique(page)))
    duration_s = None if info.duration_ns is None else round(info.duration_ns / 1e9)
    assert seconds == duration_s


@pytest.mark.slow
def test_hit_ratio_of_the_best_placement(tmp_path: Path, shared_dir: Path) -> None:
    """The hottest half of the pages of a real trace serve the known share."""
    source = shared_dir / "traces" / "spec2000-mcf.trace.gz"
    if not source.exists():
        pytest.skip(f"no recorded trace {source}")
    info = import_trace(source, tmp_path / "t.parquet")
    counts = np.zeros(info.pages, np.int64)
    for chunk in TraceReader(Path(info.path)).chunks():
        counts += np.bincount(chunk.page, minlength=info.pages)
    hottest = np.sort(counts)[::-1][: info.pages // 2]
    assert 0.5152 == round(float(hottest.sum() / info.accesses), 4)
