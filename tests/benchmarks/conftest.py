"""The benchmarks are scripts: their folder goes on the path for these tests."""

import sys
from pathlib import Path

_FOLDER = str(Path(__file__).resolve().parents[2] / "benchmarks")
if _FOLDER not in sys.path:
    sys.path.append(_FOLDER)
