"""From lists of policies, workloads, machines and ratios to the runs to be made."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from isotherm import __version__
from isotherm.lab.catalogue import BOUNDS, WITHOUT_HINTS, is_generator
from isotherm.lab.simulate import SimulationSpec
from isotherm.machine.sim.spec import BUILT_IN, load_machine

#: Run beside every comparison: without them a slowdown says little.
REFERENCES: Final = ("first-touch", *BOUNDS)
DEFAULT_RATE: Final = 10.0
#: Fields of a spec that name a run whatever their values; do not add to these.
ALWAYS_TOLD: Final = frozenset(
    (
        *("policy", "workload", "machine", "fast_ratio", "pages", "accesses", "seed"),
        *("rate", "placement", "hints", "sampling_period", "sampling_loss", "epoch_s"),
        *("memory_bound", "options", "workload_options", "faults"),
    )
)


@dataclass(frozen=True, slots=True)
class Grid:
    """What is to be compared; every combination is one run.

    ``rates`` may hold None: the trace's own times rule. ``hint_settings`` are what
    ``SimulationSpec.hints`` may be; None: that of ``common``. ``common`` is what all
    runs share; its own values for the other axes are ignored.
    """

    policies: Sequence[str]
    workloads: Sequence[str]
    machines: Sequence[str] = ("dram-cxl",)
    fast_ratios: Sequence[float] = (0.2,)
    seeds: Sequence[int] = (1,)
    rates: Sequence[float | None] | None = None
    placements: Sequence[str] = ("random",)
    sampling_periods: Sequence[int] = (2000,)
    hint_settings: Sequence[tuple[str, ...] | None] | None = None
    common: SimulationSpec = field(
        default_factory=lambda: SimulationSpec(policy="isotherm", workload="zipf")
    )

    def specs(self) -> list[SimulationSpec]:
        """Return every run, first-touch and the bounds included, none twice.

        Runs of one workload and seed stand together, so that what they share
        can be shared.
        """
        policies = list(dict.fromkeys([*self.policies, *REFERENCES]))
        settings = self.hint_settings
        if settings is None:
            settings = (self.common.hints,)
        specs = []
        for workload, seed, machine, placement in itertools.product(
            self.workloads, self.seeds, self.machines, self.placements
        ):
            rates = self.rates
            if rates is None:
                rates = (default_rate(workload),)
            for rate, ratio, period, hints, policy in itertools.product(
                rates, self.fast_ratios, self.sampling_periods, settings, policies
            ):
                spec = replace(
                    self.common,
                    policy=policy,
                    workload=workload,
                    machine=machine,
                    fast_ratio=ratio,
                    seed=seed,
                    rate=rate,
                    placement=placement,
                    sampling_period=period,
                    hints=hints,
                )
                specs.append(_without_hints(spec) if _needs_none(policy) else spec)
        read: dict[str, str] = {}
        return list({spec_key(spec, read): spec for spec in specs}.values())


def default_rate(workload: str) -> float | None:
    """Return 10 accesses per page per second, or None: a trace's own times."""
    return DEFAULT_RATE if is_generator(workload) else None


def _needs_none(policy: str) -> bool:
    """Return whether hints and their period make no difference to a policy."""
    return policy in WITHOUT_HINTS


def _without_hints(spec: SimulationSpec) -> SimulationSpec:
    """Return the same run for every hint setting, so that it is made once."""
    return replace(
        spec, hints=None, sampling_period=2000, sampling_loss=0.0, options={}
    )


def spec_values(spec: SimulationSpec) -> dict[str, Any]:
    """Return a spec as plain JSON values.

    A field that came later stands in it only where it is not at its default: runs
    from before there was one keep their names.
    """
    values: dict[str, Any] = msgspec.to_builtins(asdict(spec))
    for later in fields(spec):
        if later.name not in ALWAYS_TOLD and values[later.name] == later.default:
            del values[later.name]
    return values


def spec_key(spec: SimulationSpec, machines: dict[str, str] | None = None) -> str:
    """Return a name for a run: equal names, equal results.

    Of a workload's file its size and time of change count; of a machine's all that
    was read from it, and from what lies beside it; of isotherm the version.

    Args:
        spec: The run.
        machines: What machines' files say, by path, filled on the way: for callers
            who ask for many keys and would have each file read once.

    Raises:
        UsageError: A machine's file cannot be read as one.
    """
    values = spec_values(spec)
    path = Path(values["workload"])
    if path.exists():
        stat = path.stat()
        values["workload_file"] = [
            str(path.resolve()),
            stat.st_size,
            stat.st_mtime_ns,
        ]
    if spec.tenants is not None and Path(spec.tenants).exists():
        text = Path(spec.tenants).read_bytes()
        values["tenants_file"] = hashlib.sha256(text).hexdigest()
    if Path(spec.machine).exists() and spec.machine not in BUILT_IN:
        read = {} if machines is None else machines
        if spec.machine not in read:
            figures = msgspec.json.encode(load_machine(spec.machine), order="sorted")
            read[spec.machine] = hashlib.sha256(figures).hexdigest()
        values["machine_figures"] = read[spec.machine]
    values["version"] = __version__
    text = msgspec.json.encode(values, order="sorted")
    return hashlib.sha256(text).hexdigest()[:24]
