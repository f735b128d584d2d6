"""A server's key-value cache, played from Mooncake's requests."""

from pathlib import Path

import numpy as np
import pytest

from isotherm.core.errors import TraceFormatError
from isotherm.trace.format import TraceReader
from isotherm.trace.importers.serving import LINES_A_READ, NS_PER_TOKEN, TOKENS_A_READ
from isotherm.trace.importing import import_trace

STEP_NS = TOKENS_A_READ * NS_PER_TOKEN


def convert(tmp_path: Path, text: str) -> TraceReader:
    """Return the trace of some requests."""
    path = tmp_path / "requests.jsonl"
    path.write_text(text)
    import_trace(path, tmp_path / "out.trace", form="mooncake-serving")
    return TraceReader(tmp_path / "out.trace")


def reads(reader: TraceReader) -> list[tuple[int, int, int]]:
    """Return block, write and time of each read, with its lines as one."""
    chunks = list(reader.chunks())
    page = np.concatenate([c.page for c in chunks]).astype(int)
    write = np.concatenate([c.write for c in chunks]).astype(int)
    time = np.concatenate([c.time_ns for c in chunks]).astype(int)
    assert 0 == len(page) % LINES_A_READ
    rows = list(zip(page.tolist(), write.tolist(), time.tolist(), strict=True))
    assert all(
        len(set(rows[i : i + LINES_A_READ])) == 1
        for i in range(0, len(rows), LINES_A_READ)
    )
    return rows[::LINES_A_READ]


def test_prefill_then_decode(tmp_path: Path) -> None:
    """New blocks are written, known ones read; each step reads all of the request's."""
    text = (
        '{"timestamp": 5, "output_length": 130, "hash_ids": [10, 13]}\n'
        '{"timestamp": 3206, "output_length": 64, "hash_ids": [13, 14]}\n'
    )
    late = 3201 * 1_000_000
    expected = [
        (0, 1, 0),
        (1, 1, 0),
        (0, 0, STEP_NS),
        (1, 0, STEP_NS),
        (1, 0, late),
        (2, 1, late),
        (0, 0, 2 * STEP_NS),
        (1, 0, 2 * STEP_NS),
        (1, 0, late + STEP_NS),
        (2, 0, late + STEP_NS),
    ]
    assert expected == reads(convert(tmp_path, text))


def test_a_short_answer_is_only_prefilled(tmp_path: Path) -> None:
    """Fewer tokens than stand for one read, or none named at all."""
    text = '{"timestamp": 1, "output_length": 63, "hash_ids": [1]}\n'
    text += '{"timestamp": 2, "hash_ids": [1]}\n'
    assert [(0, 1, 0), (0, 0, 1_000_000)] == reads(convert(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"timestamp": 1, "hash_ids": [1]}\nx\n', "line 2"),
        (
            '{"timestamp": 2, "hash_ids": [1]}\n{"timestamp": 1, "hash_ids": []}\n',
            "time",
        ),
        ('{"timestamp": -1, "hash_ids": [1]}\n', "line 1: timestamp"),
        ('{"timestamp": 1, "output_length": -5, "hash_ids": []}', "output_length"),
        ('{"timestamp": 1, "output_length": 9000000000, "hash_ids": []}', "line 1"),
    ],
)
def test_malformed_requests(tmp_path: Path, text: str, said: str) -> None:
    """The line, what was found and what was expected."""
    with pytest.raises(TraceFormatError, match=said):
        convert(tmp_path, text)


@pytest.mark.slow
def test_the_conversation_trace(tmp_path: Path, shared_dir: Path) -> None:
    """Of 12,031 requests: 182,790 blocks written once each, and read while decoding."""
    source = shared_dir / "traces/mooncake-conversation.jsonl.gz"
    if not source.exists():
        pytest.skip(f"{source.name} is not there: ../shared/traces has it")
    out = tmp_path / "serving.trace"
    info = import_trace(source, out, form="mooncake-serving")
    assert 182_790 == info.pages
    assert 0 == info.accesses % LINES_A_READ
    # 288,500 references, and 343 tokens on average: five reads more of each.
    assert 4 < info.accesses / LINES_A_READ / 288_500 < 9
