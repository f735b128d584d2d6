"""What memory costs, and what tiering saves; and whether to tier at all."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from isotherm.core.errors import ConfigError
from isotherm.core.files import file_error
from isotherm.lab.capacity import STEPS, Need
from isotherm.machine.sim.spec import MachineSpec
from isotherm.topology.model import MemoryKind

#: Below this share of the memory bill nobody should run a daemon for it.
LEAST_SAVING: Final = 0.02
#: Policies that run nothing: memory is placed once.
WITHOUT_MOVER: Final = ("first-touch", "interleave", "weighted-interleave")


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Price of a GiB by kind of memory, in any unit.

    Attributes:
        per_gib: Kind (``dram``, ``cxl``, ``hbm`` …) to price, > 0.
        unit: What the prices are in.
        source: Who said so.
    """

    per_gib: dict[MemoryKind, float]
    unit: str = "no unit given"
    source: str = "as given"


#: An assumption, said wherever it is used, and nobody's price list: give your own.
ASSUMED: Final = Costs(
    {
        MemoryKind.DRAM: 1.0,
        MemoryKind.CXL: 0.5,
        MemoryKind.PMEM: 0.4,
        MemoryKind.COMPRESSED: 0.4,
        MemoryKind.HBM: 5.0,
        MemoryKind.GPU: 5.0,
        MemoryKind.REMOTE: 1.0,
    },
    "DRAM is 1",
    "assumed",
)


def read_costs(path: Path) -> Costs:
    """Return the prices of a TOML file.

    Raises:
        ConfigError: Not the expected shape, or a price that is not above 0.
        UsageError: The file cannot be read.
    """
    try:
        costs = msgspec.convert(tomllib.loads(path.read_text()), Costs)
    except OSError as error:
        raise file_error(path, error, "expected a TOML file") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeError) as error:
        raise ConfigError(
            f"{path}: {error}", hint="expected [per_gib] with lines like cxl = 2.5"
        ) from error
    for kind, price in costs.per_gib.items():
        if not 0 < price < float("inf"):
            raise ConfigError(f"{path}: per_gib.{kind}: expected above 0, got {price}")
    return costs


def memory_price(machine: MachineSpec, costs: Costs, fast_ratio: float) -> float:
    """Return the price of a footprint's memory over that of all of it fast.

    The footprint fills the fastest tier's share, then the next, up to the last.

    Raises:
        ConfigError: A kind of memory of this machine has no price.
    """
    pages = 1 << 20
    room = machine.capacities(pages, fast_ratio)
    left, total, fastest = float(pages), 0.0, 0.0
    for tier in sorted({node.tier for node in machine.nodes}):
        nodes = [i for i, node in enumerate(machine.nodes) if node.tier == tier]
        held = min(left, float(sum(room[i] for i in nodes)))
        each = [_price_of(machine.nodes[i].kind, costs) for i in nodes]
        price = sum(each) / len(each)
        fastest = fastest or price
        total += held * price
        left -= held
    return total / (pages * fastest)


def _price_of(kind: MemoryKind, costs: Costs) -> float:
    if kind not in costs.per_gib:
        raise ConfigError(
            f"costs: no price for {kind}, which this machine has",
            hint=f"per_gib has {', '.join(sorted(costs.per_gib))}",
        )
    return costs.per_gib[kind]


@dataclass(frozen=True, slots=True)
class Offer:
    """What a policy's need means in money.

    Attributes:
        policy: Its name.
        ratio: Fast memory over footprint that is enough for every replica.
        price: Of the footprint's memory, over the price of all of it fast.
        saved: Share of the all-fast price that is saved, in [0, 1); 0 where the
            second tier is not cheaper.
    """

    policy: str
    ratio: float
    price: float
    saved: float


def offer(need: Need, machine: MachineSpec, costs: Costs) -> Offer:
    """Return what a need costs: bought for the replica that needs most."""
    ratio = max(need.ratios)
    price = memory_price(machine, costs, ratio)
    return Offer(need.policy, ratio, price, max(0.0, 1 - price))


def recommend(needs: Sequence[Need], offers: Sequence[Offer]) -> str:
    """Return one sentence: what to do, which may be not to tier.

    A mover is worth running only if it saves more than a placement that needs none,
    beyond the step of the search, and more than ``LEAST_SAVING`` of the bill.
    """
    best = min(offers, key=lambda o: (o.ratio, o.policy not in WITHOUT_MOVER))
    still = [o for o in offers if o.policy in WITHOUT_MOVER]
    quiet = min(still, key=lambda o: o.ratio) if still else None
    if best.saved < LEAST_SAVING:
        return (
            f"Do not tier: the best policy, {best.policy}, needs "
            f"{best.ratio:.0%} of the footprint in fast memory, which saves "
            f"{best.saved:.1%} of the memory's price."
        )
    if quiet is not None and quiet.ratio - best.ratio <= 1 / STEPS:
        movers = [o for o in offers if o.policy not in WITHOUT_MOVER]
        as_well = ""
        if movers:
            mover = min(movers, key=lambda o: o.ratio)
            as_well = f": {quiet.policy} does as well as {mover.policy}"
        return (
            f"Buy {1 - quiet.ratio:.0%} of the footprint as slow memory and leave "
            f"tiering off{as_well}. It saves {quiet.saved:.0%} of the memory's price."
        )
    spread = max(
        max(n.ratios) - min(n.ratios) for n in needs if n.policy == best.policy
    )
    sure = (
        ""
        if spread <= 2 / STEPS
        else (
            f" Replicas differ by {spread:.0%} of the footprint: look at more of them."
        )
    )
    return (
        f"Tier with {best.policy}: {best.ratio:.0%} of the footprint in fast memory "
        f"is enough, which saves {best.saved:.0%} of the memory's price.{sure}"
    )


def as_mapping(costs: Costs) -> Mapping[str, object]:
    """Return prices as plain JSON values."""
    return {
        "per_gib": {str(kind): price for kind, price in costs.per_gib.items()},
        "unit": costs.unit,
        "source": costs.source,
    }
