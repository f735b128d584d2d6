"""The block store of a key-value cache: held to a dict of arrays."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isotherm.core.errors import UsageError
from isotherm.gpu.kv_blocks import BlocksExhaustedError, KvBlocks
from tests.gpu.conftest import TORCH

DIM = 24
#: What a GPU reads of its own memory and of the host's, bytes per second.
H100 = (2.7e12, 3.5e10)


def store(blocks: int = 32, **options) -> KvBlocks:
    """Return a store of blocks of four tokens, a quarter of them in fast memory."""
    given = {"backend": "numpy", "deterministic": True, "min_slots": 1} | options
    return KvBlocks(blocks, block_tokens=4, token_dim=DIM, hbm_bytes="25%", **given)


def tokens(count: int, seed: int) -> np.ndarray:
    """Return tokens that no other seed gives."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, DIM)).astype(np.float16)


def test_what_is_appended_is_read() -> None:
    """Over block ends, in one go or token by token; sequences do not mix."""
    cache = store()
    first, second = cache.open(), cache.open()
    a, b = tokens(11, 1), tokens(6, 2)
    cache.append(first, a[:5])
    for row in range(6):
        cache.append(second, b[row : row + 1])
        cache.append(first, a[5 + row : 6 + row])
    assert (11, 6) == (cache.tokens(first), cache.tokens(second))
    assert a.tobytes() == cache.read(first).tobytes()
    both = cache.read_table([second, first, second])
    assert [b.tobytes(), a.tobytes(), b.tobytes()] == [x.tobytes() for x in both]
    assert (3, 2) == (len(cache.table(first)), len(cache.table(second)))
    assert 32 - 5 == cache.free_blocks
    cache.close()


def test_a_sequence_without_tokens() -> None:
    """It is read as no rows, alone and beside others."""
    cache = store()
    empty, other = cache.open(), cache.open()
    assert (0, DIM) == cache.read(empty).shape
    cache.append(other, tokens(3, 1))
    shapes = [x.shape for x in cache.read_table([empty, other])]
    assert [(0, DIM), (3, DIM)] == shapes
    cache.append(empty, tokens(0, 1))
    assert 0 == cache.tokens(empty)
    cache.close()


def test_a_fork_shares_what_is_full() -> None:
    """A block that is not full is copied; what one appends the other never sees."""
    cache = store()
    parent = cache.open()
    begun = tokens(10, 1)
    cache.append(parent, begun)
    child = cache.fork(parent)
    assert cache.table(parent)[:2].tolist() == cache.table(child)[:2].tolist()
    assert cache.table(parent)[2] != cache.table(child)[2]
    mine, its = tokens(7, 2), tokens(3, 3)
    cache.append(parent, mine)
    cache.append(child, its)
    assert np.concatenate([begun, mine]).tobytes() == cache.read(parent).tobytes()
    assert np.concatenate([begun, its]).tobytes() == cache.read(child).tobytes()
    held = cache.free_blocks
    cache.free(parent)
    assert held + 3 == cache.free_blocks  # five of its own, two of them shared
    assert np.concatenate([begun, its]).tobytes() == cache.read(child).tobytes()
    cache.free(child)
    assert 32 == cache.free_blocks
    cache.close()


def test_no_block_is_free() -> None:
    """The message names the numbers, and what was there is as it was."""
    cache = store(blocks=3)
    one = cache.open()
    first = tokens(9, 1)
    cache.append(one, first)
    with pytest.raises(BlocksExhaustedError, match="1 wanted, 0 are free"):
        cache.append(one, tokens(4, 2))
    with pytest.raises(BlocksExhaustedError):
        cache.fork(one)
    assert first.tobytes() == cache.read(one).tobytes()
    assert (one,) == cache.sequences
    cache.append(one, tokens(3, 3))  # the last block has room
    cache.close()


def test_unknown_sequences_and_sizes() -> None:
    """Each is refused with its name."""
    cache = store()
    for call in (cache.free, cache.fork, cache.read, cache.tokens, cache.table):
        with pytest.raises(UsageError, match="sequence 5: not open"):
            call(5)
    gone = cache.open()
    cache.free(gone)
    with pytest.raises(UsageError, match="not open"):
        cache.append(gone, tokens(1, 1))
    cache.close()
    for name in ("blocks", "block_tokens", "token_dim"):
        sizes = {"blocks": 4, "block_tokens": 4, "token_dim": 4} | {name: 0}
        with pytest.raises(UsageError, match=name):
            KvBlocks(sizes.pop("blocks"), backend="numpy", **sizes)


def test_blocks_that_are_read_often_become_resident() -> None:
    """A sequence that is decoded is served from fast memory after a few steps."""
    cache = store(blocks=64, engine="manual", deterministic=False, bandwidths=H100)
    idle = [cache.open() for _ in range(4)]
    for seed, sequence in enumerate(idle):
        cache.append(sequence, tokens(40, seed))
    live = cache.open()
    expected = tokens(32, 9)
    cache.append(live, expected)
    for _ in range(60):
        assert expected.tobytes() == cache.read(live).tobytes()
        cache.tensor.step()
        cache.tensor.settle()
    before = cache.tensor.stats()
    cache.read(live)
    cache.tensor.step()
    after = cache.tensor.stats()
    assert 8 == after.hits - before.hits
    assert before.misses == after.misses
    cache.close()


def test_prefetched_blocks_are_hits() -> None:
    """Blocks that were asked for are there when they are read."""
    cache = store(blocks=64, engine="manual", deterministic=False, bandwidths=H100)
    soon = cache.open()
    cache.append(soon, tokens(16, 1))
    cache.prefetch([soon])
    cache.prefetch([])
    cache.tensor.settle()
    cache.read(soon)
    cache.tensor.step()
    assert (4, 0) == (cache.tensor.stats().hits, cache.tensor.stats().misses)
    cache.close()


OPERATION = st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(0, 9))


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(operations=st.lists(OPERATION, max_size=40), seed=st.integers(0, 99))
def test_against_a_dict(operations, seed) -> None:
    """Any order of opening, appending, forking, freeing, reading; moves go on."""
    cache = store(blocks=24, epoch_rows=16)
    model: dict[int, np.ndarray] = {}
    for step, (what, who, count) in enumerate(operations):
        names = list(model)
        name = names[who % len(names)] if names else None
        try:
            if what == 0 or name is None:
                model[cache.open()] = tokens(0, 0)
            elif what in (1, 2):
                values = tokens(count, seed * 100 + step)
                cache.append(name, values)
                model[name] = np.concatenate([model[name], values])
            elif what == 3:
                model[cache.fork(name)] = model[name].copy()
            elif what == 4:
                cache.free(name)
                del model[name]
        except BlocksExhaustedError:
            pass
        if what == 5:
            cache.tensor.step()
        for sequence, expected in model.items():
            assert expected.tobytes() == cache.read(sequence).tobytes()
    held = {block for s in model for block in cache.table(s).tolist()}
    assert 24 - len(held) == cache.free_blocks
    cache.close()


@pytest.mark.skipif(not TORCH, reason="torch is not installed; make gpu has it")
def test_in_torch() -> None:
    """Tensors in, tensors out."""
    import torch

    cache = store(backend="torch")
    sequence = cache.open()
    values = torch.from_numpy(tokens(9, 1))
    cache.append(sequence, values)
    child = cache.fork(sequence)
    assert torch.equal(values, cache.read(child).cpu())
    cache.close()
