"""A fleet: what every recorded host needs, and what to buy for all of them."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from isotherm.core.errors import IsothermError, UsageError
from isotherm.core.names import distinct_names
from isotherm.lab.capacity import Need
from isotherm.lab.money import Costs, Offer, as_mapping, offer, recommend
from isotherm.lab.planning import Answer
from isotherm.machine.sim.spec import MachineSpec

#: Shares of the hosts that are to be served.
SHARES: Final = (0.5, 0.9, 0.99)


@contextmanager
def near(fleet: str) -> Iterator[Path]:
    """Give a directory of traces; what is in an object store is fetched meanwhile.

    Args:
        fleet: A directory, or an address as Arrow's file systems have it:
            ``s3://bucket/hosts``, ``gs://bucket/hosts``, ``file:///hosts``.

    Raises:
        UsageError: The address is none, or there is no trace.
        IsothermError: The store does not answer.
    """
    if "://" not in fleet:
        yield Path(fleet)
        return
    with TemporaryDirectory(prefix="isotherm-fleet-") as folder:
        _fetch(fleet, Path(folder))
        yield Path(folder)


def _fetch(fleet: str, into: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415  # 0.1 s that --help must not pay
    from pyarrow import fs  # noqa: PLC0415  # likewise

    try:
        store, path = fs.FileSystem.from_uri(fleet)
        found = [
            file
            for file in store.get_file_info(fs.FileSelector(path))
            if file.is_file and file.base_name.endswith(".parquet")
        ]
        for file in found:
            with (
                store.open_input_stream(file.path) as source,
                (into / file.base_name).open("wb") as target,
            ):
                shutil.copyfileobj(source, target, 1 << 20)
    except FileNotFoundError:
        raise UsageError(f"{fleet}: there is no such place") from None
    except pa.ArrowInvalid as error:
        raise UsageError(
            f"{fleet}: {str(error).partition(chr(10))[0]}",
            hint="a directory, or s3://BUCKET/PATH, gs://BUCKET/PATH",
        ) from None
    except (OSError, pa.ArrowException) as error:
        why = str(error).partition("\n")[0]
        raise IsothermError(f"{fleet}: cannot be fetched: {why}") from None
    if not found:
        raise UsageError(
            f"{fleet}: no trace (*.parquet) in it",
            hint="isotherm trace import, or isotherm trace record",
        )


def host_traces(folder: Path) -> list[Path]:
    """Return the traces of a directory, one a host, by name.

    Raises:
        UsageError: Not a directory, or without a trace.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a directory of traces, one a host")
    found = sorted(folder.glob("*.parquet"))
    if not found:
        raise UsageError(
            f"{folder}: no trace (*.parquet) in it",
            hint="isotherm trace import, or isotherm trace record",
        )
    return found


@dataclass(frozen=True, slots=True)
class FleetRow:
    """One policy over all hosts.

    Attributes:
        policy: Its name.
        ratios: Fast memory over footprint that is enough for each of ``SHARES``.
        offer: Every host bought for the one that needs most.
    """

    policy: str
    ratios: list[float]
    offer: Offer


@dataclass(frozen=True, slots=True)
class FleetNeed:
    """What a fleet needs.

    Attributes:
        shares: Of hosts.
        rows: A policy each.
        advice: What to buy, a sentence.
    """

    shares: tuple[float, ...]
    rows: list[FleetRow]
    advice: str

    def as_json(self, answers: Sequence[Answer], costs: Costs) -> dict[str, Any]:
        """Return one JSON document, the hosts' own answers in it."""
        return {
            "hosts": [answer.as_json(costs) for answer in answers],
            "shares": self.shares,
            "policies": [asdict(row) for row in self.rows],
            "costs": as_mapping(costs),
            "advice": self.advice,
        }


def hosts_need(
    answers: Sequence[Answer], machine: MachineSpec, costs: Costs
) -> FleetNeed:
    """Return the distribution over hosts: the ratio that serves each share.

    A host counts with the replica that needs most. Hosts are weighted alike,
    whatever their footprint.
    """
    rows, needs = [], []
    for index, need in enumerate(answers[0].needs):
        worst = [max(answer.needs[index].ratios) for answer in answers]
        every = Need(
            need.policy, worst, [max(a.needs[index].slowdowns) for a in answers]
        )
        # "higher": a ratio that some host really needs, not one between two hosts.
        ratios = np.quantile(worst, SHARES, method="higher").tolist()
        rows.append(FleetRow(need.policy, ratios, offer(every, machine, costs)))
        needs.append(every)
    advice = recommend(needs, [row.offer for row in rows])
    best = min(rows, key=lambda row: row.offer.ratio)
    names = distinct_names([answer.workload for answer in answers])
    hungry = max(
        range(len(answers)),
        key=lambda i: max(
            n
            for need in answers[i].needs
            if need.policy == best.policy
            for n in need.ratios
        ),
    )
    return FleetNeed(SHARES, rows, f"{advice} The hungriest host is {names[hungry]}.")
