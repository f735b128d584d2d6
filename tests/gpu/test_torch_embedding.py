"""Embedding layers on a tiered tensor, held to torch's own."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from isotherm.core.errors import UsageError
from isotherm.gpu.embedding import TieredEmbedding, TieredEmbeddingBag

ROWS, DIM = 500, 12
#: A tenth of the rows in fast memory; moves are made between the launches.
OPTIONS = {"hbm_bytes": "10%", "min_slots": 1, "deterministic": True, "epoch_rows": 64}


def table(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return whole numbers: sums of them are exact in any order."""
    rng = np.random.default_rng(4)
    whole = rng.integers(-8, 8, (ROWS, DIM)).astype(np.float32)
    return torch.from_numpy(whole).to(dtype)


def skewed(count: int, seed: int = 1) -> torch.Tensor:
    """Return rows, some of them often."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy((ROWS * rng.random(count) ** 4).astype(np.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_embedding(dtype: torch.dtype) -> None:
    """Any shape of index; the same rows, bit for bit, while rows move."""
    weight = table(dtype)
    theirs = nn.Embedding.from_pretrained(weight)
    ours = TieredEmbedding(ROWS, DIM, weight=weight, **OPTIONS)
    for seed in range(20):
        index = skewed(60, seed).reshape(5, 3, 4)
        got = ours(index).cpu()
        assert torch.equal(theirs(index), got)
        assert (5, 3, 4, DIM) == tuple(got.shape)
    assert ours(torch.zeros(0, dtype=torch.int64)).shape == (0, DIM)
    ours.table.close()


@pytest.mark.parametrize("padding", [None, 0, 7])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_a_bag(mode: str, padding: int | None) -> None:
    """Offsets, empty bags, rows of one length, padding, weights."""
    weight = table()
    theirs = nn.EmbeddingBag.from_pretrained(
        weight, mode=mode, padding_idx=padding, freeze=True
    )
    ours = TieredEmbeddingBag(
        ROWS, DIM, weight=weight, mode=mode, padding_idx=padding, **OPTIONS
    )
    index = skewed(40)
    offsets = torch.tensor([0, 0, 5, 9, 9, 30])
    close = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(
        ours(index, offsets).cpu(), theirs(index, offsets), **close
    )
    square = index.reshape(8, 5)
    torch.testing.assert_close(ours(square).cpu(), theirs(square), **close)
    if mode == "sum":
        weights = torch.from_numpy(np.random.default_rng(2).integers(0, 4, 40)).float()
        torch.testing.assert_close(
            ours(index, offsets, per_sample_weights=weights).cpu(),
            theirs(index, offsets, per_sample_weights=weights),
            **close,
        )
    ours.table.close()


def test_the_last_offset_may_be_told() -> None:
    """As torch has it: the last bag ends where the offsets do."""
    weight = table()
    theirs = nn.EmbeddingBag.from_pretrained(
        weight, mode="sum", include_last_offset=True
    )
    ours = TieredEmbeddingBag(
        ROWS, DIM, weight=weight, mode="sum", include_last_offset=True, **OPTIONS
    )
    index, offsets = skewed(12), torch.tensor([0, 4, 12])
    assert torch.equal(theirs(index, offsets), ours(index, offsets).cpu())
    ours.table.close()


@pytest.mark.parametrize("rows", [1, 4])
def test_checkpoints_go_both_ways(rows: int) -> None:
    """Torch's layer loads ours and the other way round, through a file; or says why."""
    weight = table()
    theirs = nn.Embedding.from_pretrained(weight)
    ours = TieredEmbedding(ROWS, DIM, page=rows, **OPTIONS)
    ours(skewed(200))
    file = io.BytesIO()
    torch.save(theirs.state_dict(), file)
    file.seek(0)
    ours.load_state_dict(torch.load(file))
    assert torch.equal(theirs(skewed(90)), ours(skewed(90)).cpu())
    assert ["weight"] == list(ours.state_dict())
    again = nn.Embedding(ROWS, DIM)
    again.load_state_dict(ours.state_dict())
    assert torch.equal(weight, again.weight)
    with pytest.raises(RuntimeError, match=r"size mismatch for weight.*\[3, 2\]"):
        ours.load_state_dict({"weight": torch.zeros(3, 2)})
    with pytest.raises(RuntimeError, match="Missing key"):
        ours.load_state_dict({})
    ours.table.close()


def test_inside_a_model() -> None:
    """The prefix of a parent is kept, and the table is no parameter of it."""
    model = nn.Sequential(
        TieredEmbedding(ROWS, DIM, weight=table(), **OPTIONS), nn.Linear(DIM, 2)
    )
    assert {"0.weight", "1.weight", "1.bias"} == set(model.state_dict())
    assert 2 == len(list(model.parameters()))
    model.load_state_dict(model.state_dict())
    assert "tiered" in repr(model)
    model[0].table.close()


@pytest.mark.parametrize("padding", [None, 3])
def test_training_is_torchs_sparse_sgd(padding: int | None) -> None:
    """The same batches, losses and steps: the same table, padding untouched."""
    weight = table(torch.float64)
    theirs = nn.EmbeddingBag.from_pretrained(
        weight.clone(), mode="sum", sparse=True, freeze=False, padding_idx=padding
    )
    ours = TieredEmbeddingBag(
        ROWS,
        DIM,
        weight=weight,
        mode="sum",
        trainable=True,
        padding_idx=padding,
        **OPTIONS,
    )
    optimiser = torch.optim.SGD(theirs.parameters(), lr=0.5)
    target = torch.randn(8, DIM, dtype=torch.float64, generator=torch.manual_seed(1))
    for seed in range(6):
        index = skewed(40, seed).reshape(8, 5)
        optimiser.zero_grad()
        ((theirs(index) - target) ** 2).mean().backward()
        optimiser.step()
        ((ours(index).cpu() - target) ** 2).mean().backward()
        changed = ours.sgd_(0.5)
        real = index if padding is None else index[index != padding]
        assert len(torch.unique(real)) == changed
    torch.testing.assert_close(ours.weight, theirs.weight.detach())
    assert 0 == ours.sgd_(0.5)
    ours.table.close()


def test_gradients_add_up_until_they_are_used_or_dropped() -> None:
    """Over calls, as those of a parameter do."""
    ours = TieredEmbedding(ROWS, DIM, weight=table(), trainable=True, **OPTIONS)
    index = torch.tensor([5, 9, 5])
    ours(index).sum().backward()
    ours(index).sum().backward()
    row, grad = ours.row_gradients()
    assert [5, 9] == row.tolist()
    assert [4.0, 2.0] == grad[:, 0].tolist()
    ours.zero_grad()
    assert 0 == len(ours.row_gradients()[0])
    with torch.no_grad():
        assert not ours(index).requires_grad
    ours.table.close()


def test_a_table_of_its_own() -> None:
    """Without a weight it is drawn, and the padding row is zero."""
    torch.manual_seed(3)
    ours = TieredEmbedding(ROWS, DIM, padding_idx=-1, **OPTIONS)
    assert 0.8 < float(ours.weight.std()) < 1.2
    assert not ours(torch.tensor([ROWS - 1])).any()
    ours.table.close()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: TieredEmbedding(4, 2, padding_idx=4), "padding_idx"),
        (lambda: TieredEmbedding(4, 2, weight=torch.zeros(2, 4)), "weight: expected"),
        (lambda: TieredEmbedding(4, 2, weight=torch.zeros(4, 2).int()), "floating"),
        (lambda: TieredEmbedding(4, 2, backend="numpy"), "backend"),
        (lambda: TieredEmbeddingBag(4, 2, mode="max"), "mode"),
    ],
)
def test_what_is_refused(call, said: str) -> None:
    """At once, with the name of the argument."""
    with pytest.raises(UsageError, match=said):
        call()


def test_shapes_that_are_refused() -> None:
    """Bags without offsets, offsets with bags, weights of a mean, steps untrained."""
    ours = TieredEmbeddingBag(ROWS, DIM, weight=table(), **OPTIONS)
    flat, square = skewed(6), skewed(6).reshape(2, 3)
    for arguments, said in (
        ((flat,), "index"),
        ((square, torch.tensor([0])), "offsets"),
        ((square, None, torch.ones(2, 3)), "per_sample_weights"),
    ):
        with pytest.raises(UsageError, match=said):
            ours(*arguments)
    with pytest.raises(UsageError, match="not trainable"):
        ours.sgd_(0.1)
    ours.table.close()
