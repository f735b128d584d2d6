"""Embedding layers whose table is a tiered tensor.

For ``torch.nn.Embedding`` and ``torch.nn.EmbeddingBag``.

The table may be larger than the GPU's memory. ``forward`` takes and gives what the
layers of torch do; ``state_dict`` holds the whole table as ``weight``, so that
checkpoints go both ways. A trainable table keeps the rows' gradients of the batches
since the last update; ``sgd_`` applies them to those rows alone, which is what
``sparse=True`` with ``torch.optim.SGD`` does.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isotherm.core.errors import UsageError
from isotherm.gpu.tiered import TieredTensor

NAMES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}


class _Rows(torch.autograd.Function):
    """Rows of a table; their gradient is kept by the layer, not by a parameter."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, layer: "_Table", index: Tensor) -> Tensor:
        """Return rows ``index``, [n, dim]."""
        ctx.layer = layer
        ctx.save_for_backward(index, anchor)
        return layer.rows(index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Keep the rows' gradients; nothing flows to the anchor."""
        index, anchor = ctx.saved_tensors
        ctx.layer.keep_gradient(index, grad)
        return torch.zeros_like(anchor), None, None


class _Table(nn.Module):
    """The table of both layers.

    Args:
        num_embeddings: Rows.
        embedding_dim: Elements of a row.
        padding_idx: A row that is read as it is, and whose gradient is dropped.
        weight: The table to begin with, [rows, dim], on the host; None: drawn from
            a normal distribution, as torch does, the padding row zero.
        dtype: Of the table, where ``weight`` does not say.
        hbm_bytes: GPU memory for rows: bytes, or a share such as ``"10%"``.
        trainable: Whether gradients are kept and rows can be updated.
        options: Further arguments of ``TieredTensor.from_host``.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        padding_idx: int | None = None,
        weight: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        hbm_bytes: int | str = "10%",
        trainable: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise UsageError(
                    f"padding_idx: expected within {num_embeddings} rows,"
                    f" got {padding_idx}"
                )
            padding_idx %= num_embeddings
        if weight is None:
            weight = torch.randn(num_embeddings, embedding_dim, dtype=dtype)
            if padding_idx is not None:
                weight[padding_idx] = 0
        if tuple(weight.shape) != (num_embeddings, embedding_dim):
            raise UsageError(
                f"weight: expected [{num_embeddings}, {embedding_dim}],"
                f" got {list(weight.shape)}"
            )
        if weight.dtype not in NAMES:
            raise UsageError(f"weight: expected a floating type, got {weight.dtype}")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx
        self.trainable = trainable
        self.dtype = weight.dtype
        if options.get("backend") == "numpy":
            raise UsageError("backend: expected one of torch's, got 'numpy'")
        self.table = TieredTensor.from_host(
            weight.detach(),
            NAMES[weight.dtype],
            hbm_bytes=hbm_bytes,
            writable=trainable,
            **options,
        )
        # Rows are no parameter: autograd sees a scalar that asks for gradients.
        self._anchor = torch.zeros((), requires_grad=True) if trainable else None
        self._gradients: list[tuple[Tensor, Tensor]] = []

    def rows(self, index: Tensor) -> Tensor:
        """Return rows, [n, dim], where the table's device has them."""
        found: Tensor = self.table.gather(index)
        return found

    def _look_up(self, index: Tensor) -> Tensor:
        flat = index.reshape(-1)
        if self._anchor is None or not torch.is_grad_enabled():
            return self.rows(flat)
        found: Tensor = _Rows.apply(self._anchor, self, flat)
        return found

    # ---- training

    def keep_gradient(self, index: Tensor, grad: Tensor) -> None:
        """Keep the gradient of some rows until the next update."""
        if self.padding_idx is not None:
            real = index != self.padding_idx
            index, grad = index[real], grad[real]
        self._gradients.append((index.detach(), grad.detach()))

    def row_gradients(self) -> tuple[Tensor, Tensor]:
        """Return rows with a gradient, none twice, and the sum of each.

        Returns:
            int64[n] ascending, and [n, dim]; both empty where there is none.
        """
        if not self._gradients:
            none = torch.zeros(0, dtype=torch.int64)
            return none, torch.zeros(0, self.embedding_dim, dtype=self.dtype)
        index = torch.cat([rows for rows, _ in self._gradients])
        grad = torch.cat([values for _, values in self._gradients])
        row, of = torch.unique(index.to(torch.int64), return_inverse=True)
        total = torch.zeros(
            len(row), grad.shape[1], dtype=grad.dtype, device=grad.device
        )
        return row, total.index_add_(0, of, grad)

    @torch.no_grad()
    def sgd_(self, lr: float) -> int:
        """Take a step against the kept gradients, on their rows alone.

        Args:
            lr: Learning rate.

        Returns:
            Rows that were changed.

        Raises:
            UsageError: The layer was not made ``trainable``.
        """
        if not self.trainable:
            raise UsageError("sgd_: the layer is not trainable")
        row, grad = self.row_gradients()
        self._gradients.clear()
        if len(row):
            values = self.rows(row)
            values = values - lr * grad.to(values.device, values.dtype)
            self.table.scatter_(row, values.contiguous())
        return len(row)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the kept gradients."""
        self._gradients.clear()
        super().zero_grad(set_to_none)

    # ---- checkpoints

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight

    @property
    def weight(self) -> Tensor:
        """The whole table on the host, a copy, [rows, dim]."""
        pages = np.arange(self.table.geometry.pages)
        with self.table.host(pages) as arena:
            rows = arena.reshape(-1, self.embedding_dim)[: self.num_embeddings]
            return torch.from_numpy(rows.copy()).view(self.dtype)

    @weight.setter
    def weight(self, values: Tensor) -> None:
        pages = np.arange(self.table.geometry.pages)
        given = values.detach().cpu().to(self.dtype).contiguous()
        with self.table.host(pages, "w") as arena:
            pages_of = torch.from_numpy(arena).view(self.dtype)
            size = pages_of.shape[1]
            whole = self.num_embeddings // size  # the last page may be begun only
            pages_of[:whole] = given[: whole * size].unflatten(0, (whole, size))
            pages_of[whole:, : self.num_embeddings - whole * size] = given[
                whole * size :
            ]

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        name = prefix + "weight"
        given = state_dict.get(name)
        if given is None:
            if strict:
                missing_keys.append(name)
            return
        shape = (self.num_embeddings, self.embedding_dim)
        if tuple(given.shape) != shape:
            error_msgs.append(
                f"size mismatch for {name}: the checkpoint has {list(given.shape)},"
                f" the layer {list(shape)}"
            )
            return
        self.weight = given

    def extra_repr(self) -> str:
        """Return the sizes, as torch prints them."""
        return f"{self.num_embeddings}, {self.embedding_dim}, tiered"


class TieredEmbedding(_Table):
    """``torch.nn.Embedding`` on a tiered tensor; see the module."""

    def forward(self, index: Tensor) -> Tensor:
        """Return the rows of an index, [*index.shape, dim].

        Args:
            index: int32 or int64, any shape.
        """
        return self._look_up(index).reshape(*index.shape, self.embedding_dim)


class TieredEmbeddingBag(_Table):
    """``torch.nn.EmbeddingBag`` on a tiered tensor; see the module.

    Args:
        args: As for `TieredEmbedding`.
        mode: ``sum`` or ``mean``.
        include_last_offset: Whether ``offsets`` ends with the length of the index.
        options: As for `TieredEmbedding`.
    """

    def __init__(
        self,
        *args: Any,
        mode: str = "mean",
        include_last_offset: bool = False,
        **options: Any,
    ) -> None:
        if mode not in ("sum", "mean"):
            raise UsageError(f"mode: expected sum or mean, got {mode!r}")
        super().__init__(*args, **options)
        self.mode, self.include_last_offset = mode, include_last_offset

    def forward(
        self,
        index: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """Return the sum or mean of each bag's rows, [bags, dim].

        Args:
            index: int32 or int64: [bags, rows of a bag], or [n] with ``offsets``.
            offsets: Where each bag begins, [bags], ascending from 0.
            per_sample_weights: Of each row, like ``index``; with ``sum`` only.

        Raises:
            UsageError: The shapes do not fit, or weights are given for a mean.
        """
        if per_sample_weights is not None and self.mode != "sum":
            raise UsageError("per_sample_weights: expected mode sum, got mean")
        index, offsets = self._bags(index, offsets)
        weights = None
        if per_sample_weights is not None:
            weights = per_sample_weights.reshape(-1)
        keeps = self._anchor is not None and torch.is_grad_enabled()
        if self.padding_idx is None and not keeps:
            found: Tensor = self.table.gather_bag(
                index, offsets, mean=self.mode == "mean", weights=weights
            )
            return found
        return self._pool(index, offsets, weights)

    def _bags(self, index: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return a flat index and where its bags begin."""
        if index.dim() == 2:
            if offsets is not None:
                raise UsageError("offsets: expected none with a two-dimensional index")
            starts = torch.arange(len(index), device=index.device) * index.shape[1]
            return index.reshape(-1), starts
        if index.dim() != 1 or offsets is None:
            raise UsageError(
                f"index: expected [bags, rows], or [n] with offsets, got"
                f" {list(index.shape)}"
            )
        return index, offsets[:-1] if self.include_last_offset else offsets

    def _pool(self, index: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        """Return the bags by gathering rows first: padding and gradients need them."""
        rows = self._look_up(index)
        device = rows.device
        index, offsets = index.to(device), offsets.to(device, torch.int64)
        ends = torch.cat([offsets[1:], torch.tensor([len(index)], device=device)])
        bag = torch.repeat_interleave(
            torch.arange(len(offsets), device=device), ends - offsets
        )
        counts = torch.ones(len(index), dtype=rows.dtype, device=device)
        if weights is not None:
            rows = rows * weights.to(device, rows.dtype)[:, None]
        if self.padding_idx is not None:
            counts = (index != self.padding_idx).to(rows.dtype)
            rows = rows * counts[:, None]
        shape = (len(offsets), self.embedding_dim)
        total = torch.zeros(shape, dtype=rows.dtype, device=device)
        total = total.index_add(0, bag, rows)
        if self.mode == "mean":
            of_bag = torch.zeros(len(offsets), dtype=rows.dtype, device=device)
            total = total / of_bag.index_add(0, bag, counts).clamp(min=1)[:, None]
        return total
