"""Batches of runs on a Dask cluster; its scheduler replaces lost workers."""

import contextlib
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from isotherm.core.errors import IsothermError, UnsupportedError
from isotherm.lab import streams
from isotherm.lab.batches import Cell, Job, cut, run_batch
from isotherm.lab.pool import Stream, killed

if TYPE_CHECKING:
    from distributed import Client

log = structlog.get_logger()

#: How long a scheduler may take to answer, and a cluster to have a worker.
CONNECT_S: Final = 10
WORKERS_S: Final = 60


def run_on_cluster(job: Job, cells: Sequence[Cell], address: str) -> Stream:
    """Make the runs on the workers of a Dask scheduler.

    What a lost worker was running, its scheduler gives to another one. A batch
    whose workers were killed as often as the scheduler allows is taken apart, so
    that the run which kills them is known by name.

    Args:
        job: What the batches share; without a journal, which is on this host.
        cells: The runs.
        address: Of the scheduler.

    Raises:
        UnsupportedError: dask.distributed is not installed.
        IsothermError: The scheduler cannot be reached, is lost, or has no workers;
            a run's process was killed again and again.
    """
    try:
        from distributed import CancelledError, KilledWorker, as_completed  # noqa: PLC0415  # optional
    except ImportError:
        raise UnsupportedError(
            "--scheduler: dask.distributed is not installed",
            hint="pip install 'isotherm[cluster]'",
        ) from None
    client = _connect(address)
    lost = False
    try:
        threads = _wait_for_workers(client, address)
        batches = {}
        for batch in cut(cells, threads):
            batches[_submit(client, job, batch)] = batch
        ended = as_completed(list(batches), loop=client.loop)  # type: ignore[no-untyped-call]  # theirs
        for future in ended:
            batch = batches.pop(future)
            try:
                yield future.result()
            except KilledWorker as error:
                if len(batch) == 1:
                    raise killed(
                        batch[0],
                        error.allowed_failures + 1,
                        "fewer threads a worker need less memory",
                    ) from None
                log.warning("workers killed, run by run now", runs=len(batch))
                for cell in batch:
                    single = _submit(client, job, [cell])
                    batches[single] = [cell]
                    ended.add(single)  # type: ignore[no-untyped-call]  # theirs
            except (CancelledError, OSError) as error:
                lost = True
                raise IsothermError(
                    f"scheduler {address}: lost: {error}",
                    hint="with --out FILE the same command goes on where it stopped",
                ) from error
            future.release()
    finally:
        if not lost:
            # A worker that is being started anew may answer this or not: what is to
            # be told of the runs is told.
            with contextlib.suppress(Exception):
                client.run(streams.leave, job.token, on_error="ignore")
        client.close()  # type: ignore[no-untyped-call]  # theirs


def _connect(address: str) -> "Client":
    from distributed import Client  # noqa: PLC0415  # optional
    from distributed.comm.addressing import get_address_host_port  # noqa: PLC0415

    try:
        # Dask would try again and again; who is not there is known at once.
        with socket.create_connection(get_address_host_port(address), CONNECT_S):
            pass
        return Client(address, timeout=f"{CONNECT_S}s", set_as_default=False)  # type: ignore[no-untyped-call]  # theirs
    except (OSError, ValueError) as error:
        raise IsothermError(
            f"scheduler {address}: cannot connect: {error}",
            hint="start one with: dask scheduler",
        ) from error


def _wait_for_workers(client: "Client", address: str) -> int:
    """Return the threads of all workers, at least one."""
    threads: dict[str, int] = client.ncores()  # type: ignore[no-untyped-call]  # theirs
    if not threads:
        log.warning("no workers yet", scheduler=address, waiting_s=WORKERS_S)
        try:
            client.wait_for_workers(1, timeout=WORKERS_S)
        except TimeoutError:
            raise IsothermError(
                f"scheduler {address}: no workers for {WORKERS_S} s",
                hint=f"start one with: dask worker {address}",
            ) from None
        threads = client.ncores()  # type: ignore[no-untyped-call]  # theirs
    return max(1, sum(threads.values()))


def _submit(client: "Client", job: Job, batch: list[Cell]) -> Any:  # theirs
    return client.submit(run_batch, job, batch, pure=False)
