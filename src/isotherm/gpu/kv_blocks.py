"""A key-value cache in blocks: what a language-model server keeps per sequence.

Tokens of a sequence lie in blocks of a few, blocks anywhere; a block table says
where. Sequences share blocks: a fork shares all that is full, and copies the rest.
Which blocks are in the GPU's memory is the tensor's business: a block is a page of
it, so that attention's reads (`read`, `read_table`) bring hot blocks in.

The tensor's first axis is blocks x tokens; a row holds what one token needs, keys
and values, of one layer or of all.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError, UsageError
from isotherm.gpu.backend import DeviceArray
from isotherm.gpu.tiered import TieredTensor


class BlocksExhaustedError(IsothermError):
    """No block is free; what was there is as it was."""


class KvBlocks:
    """Blocks, who holds them, and the tensor that they are in.

    Args:
        blocks: How many, >= 1.
        block_tokens: Tokens of a block, >= 1; 16 is usual.
        token_dim: Elements of a token: 2 x heads x head size for a layer.
        dtype: A type of a tiered tensor.
        hbm_bytes: GPU memory for blocks: bytes, or a share such as ``"10%"``.
        backend: As for a tiered tensor.
        options: Further arguments of ``TieredTensor.from_host``.

    Raises:
        UsageError: A size is not at least 1.
    """

    def __init__(
        self,
        blocks: int,
        *,
        block_tokens: int = 16,
        token_dim: int,
        dtype: str = "float16",
        hbm_bytes: int | str = "10%",
        backend: str = "auto",
        **options: Any,
    ) -> None:
        for name, value in (
            ("blocks", blocks),
            ("block_tokens", block_tokens),
            ("token_dim", token_dim),
        ):
            if value < 1:
                raise UsageError(f"{name}: expected at least 1, got {value}")
        self.block_tokens = block_tokens
        self.tensor = TieredTensor.from_host(
            (blocks * block_tokens, token_dim),
            dtype,
            hbm_bytes=hbm_bytes,
            page=block_tokens,
            writable=True,
            backend=backend,
            **options,
        )
        self._free = list(range(blocks - 1, -1, -1))
        self._holders = np.zeros(blocks, np.int32)
        self._blocks: dict[int, list[int]] = {}
        self._tokens: dict[int, int] = {}
        self._next = 0

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    @property
    def sequences(self) -> tuple[int, ...]:
        """Sequences that are open, in the order in which they were opened."""
        return tuple(self._blocks)

    def tokens(self, sequence: int) -> int:
        """Return how many tokens a sequence has."""
        self._check(sequence)
        return self._tokens[sequence]

    def table(self, sequence: int) -> NDArray[np.int64]:
        """Return the blocks of a sequence in order of their tokens, int64[n]."""
        self._check(sequence)
        return np.array(self._blocks[sequence], np.int64)

    # ---- sequences

    def open(self) -> int:
        """Return a new sequence without tokens."""
        sequence = self._next
        self._next += 1
        self._blocks[sequence], self._tokens[sequence] = [], 0
        return sequence

    def fork(self, sequence: int) -> int:
        """Return a new sequence that begins with all tokens of another.

        Full blocks are shared; one that is not full is copied.

        Raises:
            BlocksExhaustedError: There is no block for the copy.
        """
        self._check(sequence)
        held = self._blocks[sequence]
        full = self._tokens[sequence] // self.block_tokens
        copy: list[int] = []
        if full < len(held):
            copy = self._take(1)
            rows = self.tensor.read_blocks(np.array(held[full:], np.int64))[0]
            self._write(copy[0] * self.block_tokens, rows)
        self._holders[held[:full]] += 1
        child = self.open()
        self._blocks[child] = held[:full] + copy
        self._tokens[child] = self._tokens[sequence]
        return child

    def free(self, sequence: int) -> None:
        """Give up a sequence; blocks that no other holds are free again."""
        self._check(sequence)
        self._tokens.pop(sequence)
        for block in self._blocks.pop(sequence):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                self._free.append(block)

    # ---- tokens

    def append(self, sequence: int, values: DeviceArray) -> None:
        """Add tokens to the end of a sequence.

        Args:
            sequence: Which.
            values: [tokens, token_dim], of the tensor's type.

        Raises:
            BlocksExhaustedError: Not enough blocks are free; nothing is added.
        """
        self._check(sequence)
        count, had = len(values), self._tokens[sequence]
        blocks = self._blocks[sequence]
        wanted = -(-(had + count) // self.block_tokens)
        blocks += self._take(wanted - len(blocks))
        if count == 0:
            return
        place = np.arange(had, had + count)
        block = np.array(blocks, np.int64)[place // self.block_tokens]
        self.tensor.scatter_(
            block * self.block_tokens + place % self.block_tokens, values
        )
        self._tokens[sequence] = had + count

    def read(self, sequence: int) -> DeviceArray:
        """Return all tokens of a sequence, [tokens, token_dim]."""
        return self.read_table([sequence])[0]

    def read_table(self, sequences: Sequence[int]) -> list[DeviceArray]:
        """Return the tokens of several sequences, read in one launch.

        Args:
            sequences: Which; a block that several share is read for each.

        Returns:
            An array [tokens, token_dim] for each.
        """
        tables = [self.table(sequence) for sequence in sequences]
        if not any(len(table) for table in tables):
            empty = np.zeros(0, np.int64)
            return [self.tensor.gather(empty) for _ in tables]
        read = self.tensor.read_blocks(np.concatenate(tables))
        found, at = [], 0
        for sequence, table in zip(sequences, tables, strict=True):
            part = read[at : at + len(table)]
            at += len(table)
            rows = part.reshape((-1, part.shape[-1]))
            found.append(rows[: self._tokens[sequence]])
        return found

    def prefetch(self, sequences: Iterable[int]) -> None:
        """Ask for the blocks of sequences that will be read soon."""
        tables = [self.table(sequence) for sequence in sequences]
        if tables:
            first = np.concatenate(tables) * self.block_tokens
            self.tensor.prefetch(first)

    def close(self) -> None:
        """Give the tensor's memory back."""
        self.tensor.close()

    # ---- blocks

    def _take(self, count: int) -> list[int]:
        """Return free blocks, held once."""
        if count <= 0:
            return []
        if count > len(self._free):
            raise BlocksExhaustedError(
                f"key-value blocks: {count} wanted, {len(self._free)} are free",
                hint="free a sequence, or make the store with more blocks",
            )
        taken = [self._free.pop() for _ in range(count)]
        self._holders[taken] = 1
        return taken

    def _write(self, first_row: int, rows: DeviceArray) -> None:
        self.tensor.scatter_(first_row + np.arange(len(rows)), rows)

    def _check(self, sequence: int) -> None:
        if sequence not in self._blocks:
            raise UsageError(f"sequence {sequence}: not open")
