"""What the device and its bus can do, measured before anything is compared with it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gpu_data import GIB, MIB, Rig, Table, parts, place, rows_geometry
from isotherm.gpu.backend import Geometry, Launch

#: Rows read per measurement hold so many bytes: more than any L2.
BATCH_BYTES = 128 * MIB


class Ceilings:
    """Measured limits; ``ideal`` makes of them what a gather could take at best.

    Args:
        rig: The device.
        table: What is read.
        add: Takes a row of the report.
    """

    def __init__(self, rig: Rig, table: Table, add: Callable[..., None]) -> None:
        self.rig, self.table, self.add = rig, table, add
        #: (row bytes, footprint bytes): seconds per row, all on the host, unsorted.
        self.host_row_s: dict[tuple[int, int], float] = {}
        #: row bytes: seconds per row, all in slots, by the best kernel there is.
        self.hbm_row_s: dict[int, float] = {}

    def batch(self, row_bytes: int) -> int:
        """Return rows per measurement."""
        return max(1, self.rig.scale.batch * 512 // row_bytes)

    # -- copies ----------------------------------------------------------------

    def copies(self) -> None:
        """Copy engine and device to device."""
        torch = self.rig.torch
        if torch is None:
            return
        size = min(GIB, len(self.table.bytes) // 2)
        there = torch.empty(size, dtype=torch.uint8, device=self.rig.device.torch)
        other = torch.empty_like(there)
        here = torch.from_numpy(self.table.bytes[:size])
        for name, run, moved in (
            ("device to device", lambda _: other.copy_(there), 2 * size),
            ("host to device", lambda _: there.copy_(here, non_blocking=True), size),
            ("device to host", lambda _: here.copy_(there, non_blocking=True), size),
        ):
            took = float(np.median(self.rig.seconds(run, 4)[1:]))
            self.add("ceiling", what=f"copy {name}", gb_s=moved / took / 1e9)

    def programs(self) -> None:
        """Pages copied by the device's own processors, by the number of programs."""
        if self.rig.name != "triton":
            return
        for page_bytes in (512, 65536):
            pages = min(len(self.table.bytes), 8 * GIB) // page_bytes
            n = min(pages, max(1, 64 * MIB // page_bytes))
            geometry = Geometry(pages, page_bytes // 4, "int32", 1, n)
            random = np.random.default_rng(1)
            page = random.choice(pages, n, replace=False)
            page = self.rig.array(np.sort(page).astype(np.int32))
            slot = self.rig.array(np.arange(n, dtype=np.int32))
            counts = (8, 16, 24, 32, 64, 264) if self.rig.cuda else (2,)
            for programs in counts:
                device = self.rig.make(self.table, geometry, programs=programs)
                state: Any = device.state  # type: ignore[attr-defined]  # torch's
                steps: Any = device._steps  # type: ignore[attr-defined]  # noqa: SLF001
                for out in (False, True):
                    copy = partial(steps.copy, state, page, slot, out=out)
                    took = self.rig.seconds(lambda _, c=copy: c(), 4)  # type: ignore[misc]
                    self.add(
                        "ceiling",
                        what=f"copy kernel {'out' if out else 'in'}",
                        row_bytes=page_bytes,
                        programs=programs,
                        gb_s=n * page_bytes / float(np.median(took[1:])) / 1e9,
                    )
                device.close()

    # -- gathers -----------------------------------------------------------------

    def gathers(self, row_bytes: int, *, short: bool = False) -> None:
        """Rows by zero-copy over several footprints, and out of HBM.

        Args:
            row_bytes: Of a row.
            short: One footprint, unsorted: what ``ideal`` needs, no more.
        """
        limit = len(self.table.bytes)
        if row_bytes < 512:
            limit = min(limit, self.rig.scale.narrow_bytes)
        sizes = [f for f in self.rig.scale.footprints if f <= limit]
        for footprint in sizes[-1:] if short else sizes:
            for ordered in (False,) if short else (False, True):
                self._host(row_bytes, footprint, ordered=ordered)
        self._hbm(row_bytes)

    def _host(self, row_bytes: int, footprint: int, *, ordered: bool) -> None:
        rig = self.rig
        geometry = rows_geometry(row_bytes, footprint // row_bytes, 0)
        device = rig.make(self.table, geometry, count=False)
        random = np.random.default_rng(2)
        size = self.batch(row_bytes)
        rows = [random.integers(0, geometry.rows, size) for _ in range(4)]
        indices = [
            rig.array((np.sort(r) if ordered else r).astype(np.int32)) for r in rows
        ]
        out = device.empty((size, geometry.row_dim))
        launch = Launch(1, deposit=False)
        took = rig.seconds(
            lambda i: device.gather(indices[i % 4], out, launch),
            2 + rig.scale.timed // 6,
        )
        row_s = float(np.median(took[2:])) / size if len(took) > 2 else took[-1] / size
        if not ordered:
            self.host_row_s[row_bytes, footprint] = row_s
        self.add(
            "ceiling",
            what="zero-copy gather" + (", sorted" if ordered else ""),
            row_bytes=row_bytes,
            footprint_bytes=footprint,
            gb_s=row_bytes / row_s / 1e9,
        )
        device.close()

    def _hbm(self, row_bytes: int) -> None:
        """All rows resident: our kernel and index_select; the better one counts."""
        rig = self.rig
        limit = min(len(self.table.bytes), 8 * GIB)
        geometry = rows_geometry(row_bytes, limit // row_bytes, 0)
        geometry = rows_geometry(row_bytes, geometry.rows, geometry.pages)
        device = rig.make(self.table, geometry, count=False)
        place(device, np.arange(geometry.pages, dtype=np.uint32))
        random = np.random.default_rng(3)
        size = self.batch(row_bytes)
        indices = [
            rig.array(random.integers(0, geometry.rows, size).astype(np.int32))
            for _ in range(4)
        ]
        out = device.empty((size, geometry.row_dim))
        launch = Launch(1, deposit=False)
        best = np.inf
        runs: dict[str, Callable[[int], object]] = {
            "our gather": lambda i: device.gather(indices[i % 4], out, launch)
        }
        if rig.torch is not None:
            flat = device.state.slots.view(rig.torch.int32)  # type: ignore[attr-defined]
            flat = flat.view(-1, geometry.row_dim)
            runs["index_select"] = lambda i: rig.torch.index_select(
                flat, 0, indices[i % 4], out=out
            )
        for name, run in runs.items():
            took = rig.seconds(run, 2 + max(3, rig.scale.timed // 3))
            row_s = float(np.median(took[2:])) / size
            best = min(best, row_s)
            self.add(
                "ceiling",
                what=f"all in HBM, {name}",
                row_bytes=row_bytes,
                gb_s=row_bytes / row_s / 1e9,
                wrong_words=self.table.wrong_words(
                    geometry, indices[(len(took) - 1) % 4], out
                ),
            )
        self.hbm_row_s[row_bytes] = best
        device.close()

    # -- ideal -------------------------------------------------------------------

    def ideal(self, row_bytes: int, footprint: int, hits: float) -> tuple[float, float]:
        """Return seconds per row at best: both arenas at once, one after the other.

        The bus carries the misses as fast as random zero-copy reads of that size were
        measured; HBM carries index, ``loc``, the rows that hit and the results, as
        fast as a gather of which all rows hit.
        """
        known = [f for r, f in self.host_row_s if r == row_bytes]
        nearest = min(known, key=lambda f: abs(np.log(f / footprint)))
        link = (1 - hits) * self.host_row_s[row_bytes, nearest]
        whole = 2 * row_bytes + 36  # 4 of the index, 32 of the sector of loc
        hbm = self.hbm_row_s[row_bytes] * ((1 + hits) * row_bytes + 36) / whole
        return max(link, hbm), link + hbm


def fill(rig: Rig, shape: tuple[int, ...], device: Any) -> Any:
    """Return an output that holds other bytes than any result."""
    out = device.empty(shape)
    for part in parts(len(out), 1 << 20):
        out[part] = -1
    return out
