"""The kernels as they are compiled for sm_90: widths, cache modifiers, one look."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SLOTS = "ld.global.cg.v4.b32"
HOST = "ld.global.L1::evict_first.L2::cache_hint.v4.b32"
RESULT = "st.global.cs.v4.b32"
COUNTER = "atom.global.gpu.relaxed.add.u32"
LOOK = "ld.global.ca.b32"
GATHERS = ["gather", "gather_64", "gather_656", "gather_long"]
READERS = [*GATHERS, "gather_bare", "gather_placed", "gather_list", "gather_bag"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return what ``compile_kernels.py`` prints: PTX, registers, stack."""
    for needs in ("torch", "triton"):
        if importlib.util.find_spec(needs) is None:
            pytest.skip(f"{needs} is not installed; make gpu has it")
    # A process that never interprets; its cache must not be somebody's older one.
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.compile_kernels"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "" == done.stderr
    made: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return made


def accesses(ptx: str) -> Counter[str]:
    """Return how often each kind of access to global memory stands in a kernel."""
    pattern = r"^\s*(?:@!?%p\d+ )?((?:ld|st|atom|red)\.global\S*)"
    return Counter(re.findall(pattern, ptx, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_rows_are_read_and_stored_by_16_bytes(compiled: Any, name: str) -> None:
    """Slots through L2 alone, the host to be evicted first, results streamed."""
    found = accesses(compiled[name]["ptx"])
    assert found[SLOTS] > 0
    assert found[SLOTS] == found[HOST] == found[RESULT]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gather_bag_fp16", "gather_bag_bf16"])
def test_bags_of_two_byte_elements_too(compiled: Any, name: str) -> None:
    """Eight elements a lane, whatever they are summed in."""
    found = accesses(compiled[name]["ptx"])
    assert (1, 1, 1) == (found[SLOTS], found[HOST], found[RESULT])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*GATHERS, "gather_bare", "look", "look_split"])
def test_where_a_row_is_is_looked_up_once(compiled: Any, name: str) -> None:
    """One load of ``loc`` a thread, and as many rows as threads.

    With fewer rows Triton loads again in every layout that it wants the answer in,
    and the row, its counter and its deposit could follow different answers.
    """
    from tests.gpu import compile_kernels

    kernel, constants, _ = compile_kernels.CASES[name]
    assert 128 == constants["BLOCK_R"]
    assert kernel in ("gather", "look")
    assert ".reqntid 128" in compiled[name]["ptx"]
    assert 1 == accesses(compiled[name]["ptx"])[LOOK]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*GATHERS, "look", "look_split"])
def test_counters_are_relaxed_atomics(compiled: Any, name: str) -> None:
    """Misses and hits are added without an order, in device scope."""
    found = accesses(compiled[name]["ptx"])
    assert found[COUNTER] >= 2
    ordered = [kind for kind in found if re.search("acquire|release|acq_rel", kind)]
    assert [] == ordered


@pytest.mark.slow
def test_without_counting_nothing_is_counted(compiled: Any) -> None:
    """The bare gather adds to no counter but that of indices outside."""
    found = accesses(compiled["gather_bare"]["ptx"])
    assert 0 == found[COUNTER]
    atomics = sum(n for kind, n in found.items() if kind.startswith("atom"))
    assert 1 == atomics


@pytest.mark.slow
def test_a_write_raises_the_version_last(compiled: Any) -> None:
    """Every store stands before the barrier, the release of the version behind."""
    lines = compiled["scatter"]["ptx"].splitlines()
    stores = [i for i, line in enumerate(lines) if "st.global.cg.v4.b32" in line]
    barrier = max(i for i, line in enumerate(lines) if "bar.sync" in line)
    release = [i for i, line in enumerate(lines) if "atom.global.gpu.release" in line]
    assert stores
    assert 1 == len(release)
    assert max(stores) < barrier < release[0]


@pytest.mark.slow
def test_pages_are_copied_by_16_bytes(compiled: Any) -> None:
    """The copy reads and stores vectors, past L1."""
    found = accesses(compiled["copy_pages"]["ptx"])
    assert found[HOST] == found["st.global.cg.v4.b32"] > 0


@pytest.mark.slow
def test_a_drain_exchanges(compiled: Any) -> None:
    """Counters are read and zeroed by one atomic exchange."""
    assert accesses(compiled["drain"]["ptx"])["atom.global.gpu.relaxed.exch.b32"] > 0
    assert accesses(compiled["take"]["ptx"])["atom.global.gpu.relaxed.exch.b64"] > 0


@pytest.mark.slow
def test_publishing_is_one_aligned_store(compiled: Any) -> None:
    """``loc`` is stored by 32 bits, and only there and in unpublish."""
    for name in ("publish", "publish_want"):
        assert 1 == accesses(compiled[name]["ptx"])["st.global.b32"]


@pytest.mark.slow
def test_nothing_is_spilled(compiled: Any) -> None:
    """No kernel keeps registers in local memory."""
    stacks = {name: case.get("stack", 0) for name, case in compiled.items()}
    assert {} == {name: stack for name, stack in stacks.items() if stack}
