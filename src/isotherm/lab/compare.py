"""Run a grid on some cores or on a Dask cluster; go on where it stopped."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import structlog

from isotherm.core.errors import IsothermError, UnsupportedError
from isotherm.core.names import distinct_names
from isotherm.lab.batches import Answer, Cell, Done, Job, Work, work
from isotherm.lab.cluster import run_on_cluster
from isotherm.lab.grid import spec_key, spec_values
from isotherm.lab.pool import run_here, run_in_processes, usable_cores
from isotherm.lab.regret import judge
from isotherm.lab.simulate import SimulationSpec
from isotherm.lab.store import ResultStore
from isotherm.lab.trace_cache import DEFAULT_LIMIT_BYTES, new_token
from isotherm.observability.timeline import Timeline

__all__ = ["Answer", "Comparison", "Work", "compare", "usable_cores", "work"]

log = structlog.get_logger()


@dataclass(slots=True)
class Comparison:
    """What came out of a grid.

    Attributes:
        results: Judged results (JSON contract and regret), in the grid's order.
        timelines: By index into ``results``, for the runs that were to keep one.
        errors: Runs that this machine or policy cannot do, with the reason.
        resumed: Runs that were taken from the store.
        decoded: Traces that were decoded to be shared by runs.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    timelines: dict[int, Timeline] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    resumed: int = 0
    decoded: int = 0


def compare(
    specs: Sequence[SimulationSpec],
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    store: ResultStore | None = None,
    keep_timeline: Callable[[SimulationSpec], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
    work: Work = work,
    trace_bytes: int = DEFAULT_LIMIT_BYTES,
) -> Comparison:
    """Make every run and judge the results; the same whatever ``jobs``.

    Args:
        specs: The runs.
        jobs: Processes; None: one per core; 1: in this process.
        scheduler: Address of a Dask scheduler instead.
        store: Where finished runs are kept; those in it are not made again.
        keep_timeline: Which runs keep a timeline; they are made even if stored.
        progress: Called with runs done and runs in all.
        work: What a worker does, for tests.
        trace_bytes: Of decoded traces that each host keeps while it works; 0: a
            trace is decoded for every run.

    Raises:
        UnsupportedError: No run of the grid can be done here.
        IsothermError: A run failed, or its worker was killed again and again.
    """
    keep = keep_timeline or (lambda spec: False)
    read: dict[str, str] = {}
    keys = [spec_key(spec, read) for spec in specs]
    answers: dict[int, Answer] = {}
    failed: dict[int, IsothermError] = {}
    out = Comparison()
    todo: list[Cell] = []
    for index, (spec, key) in enumerate(zip(specs, keys, strict=True)):
        if store is not None and key in store.done and not keep(spec):
            answers[index] = (store.done[key], None)
            out.resumed += 1
        else:
            todo.append(Cell(index, key, spec, keep(spec)))
    if progress is not None:
        progress(len(answers), len(specs))
    jobs = min(jobs or usable_cores(), max(1, len(todo)))
    journal = None
    if store is not None and scheduler is None and jobs > 1:
        journal = store.worker_journal()
    job = Job(work, new_token(), trace_bytes, journal)
    if scheduler is not None:
        stream = run_on_cluster(job, todo, scheduler)
    elif jobs == 1:
        stream = run_here(job, todo)
    else:
        stream = run_in_processes(job, todo, jobs, lambda lost: _rescue(store, lost))
    # Closed here, not by the collector: at exit a pool can no longer shut down.
    with closing(stream):
        for done in stream:
            out.decoded += done.decoded
            for index, answer in done.answers.items():
                if isinstance(answer, UnsupportedError):
                    failed[index] = answer
                    log.warning(
                        "unsupported",
                        run=str(Cell(index, keys[index], specs[index])),
                        error=answer.message,
                    )
                elif isinstance(answer, IsothermError):
                    raise answer
                else:
                    answers[index] = answer
                    if store is not None and journal is not None:
                        store.written(keys[index], answer[0])
                    elif store is not None:
                        store.add(keys[index], answer[0])
            if progress is not None:
                progress(len(answers) + len(failed), len(specs))
    if failed and not answers:
        raise next(iter(failed.values()))
    order = sorted(answers)
    rows = [dict(answers[index][0]) for index in order]
    names = [(row["workload"], row["machine"]) for row in rows]
    _tell_apart(rows, [specs[index] for index in order])
    out.results = judge(rows)
    for position, index in enumerate(order):
        timeline = answers[index][1]
        if timeline is not None:
            out.timelines[position] = timeline
    out.errors = [
        {"spec": spec_values(specs[index]), "error": error.message}
        for index, error in sorted(failed.items())
    ]
    if store is not None:
        # As simulated: which names need their folders is a matter of what is asked
        # for together.
        kept = [
            {**row, "workload": workload, "machine": machine}
            for row, (workload, machine) in zip(out.results, names, strict=True)
        ]
        store.save(kept, [keys[index] for index in order])
    return out


def _rescue(store: ResultStore | None, lost: Iterable[Cell]) -> Done:
    """Return what workers that were lost had finished and written to the journal."""
    if store is None or store.worker_journal() is None:
        return Done({})
    rows = store.written_since()
    return Done(
        {
            cell.index: (rows[cell.key], None)
            for cell in lost
            if cell.key in rows and not cell.keep_timeline
        }
    )


def _tell_apart(rows: list[dict[str, Any]], specs: list[SimulationSpec]) -> None:
    """Give files of one name (``a/x.parquet``, ``b/x.parquet``) their folders."""
    for kind in ("workload", "machine"):
        asked: dict[str, set[str]] = {}
        for row, spec in zip(rows, specs, strict=True):
            asked.setdefault(row[kind], set()).add(getattr(spec, kind))
        for row, spec in zip(rows, specs, strict=True):
            paths = sorted(asked[row[kind]])
            if len(paths) > 1:
                names = dict(zip(paths, distinct_names(paths), strict=True))
                row[kind] = names[getattr(spec, kind)]
