"""Finding the daemon that manages a process, and asking it."""

from pathlib import Path
from typing import Any

from isotherm.core.errors import IsothermError, NotPermittedError, TargetGoneError
from isotherm.daemon.rundir import RunDirectory, RunRecord, run_directory
from isotherm.daemon.socket import Question, ask


def running(directory: Path | None = None) -> list[RunRecord]:
    """Return the daemons that live and answer questions, by pid.

    One that still opens its sources does not answer yet.
    """
    found = RunDirectory(directory or run_directory()).runs()
    return [run for run in found if run.socket and Path(run.socket).exists()]


def list_managed(directory: Path | None = None) -> list[dict[str, Any]]:
    """Return every daemon with the processes that it manages, as JSON values."""
    return [
        {"pid": run.pid, **ask(Path(run.socket or ""), Question("status"))}
        for run in running(directory)
    ]


def list_tenants(directory: Path | None = None) -> list[dict[str, Any]]:
    """Return every daemon with its tenants, as JSON values."""
    return [
        {"pid": run.pid, **ask(Path(run.socket or ""), Question("tenants"))}
        for run in running(directory)
    ]


def ask_about(
    pid: int,
    addresses: tuple[int, int] | None = None,
    pages: tuple[int, int] | None = None,
    directory: Path | None = None,
) -> dict[str, Any]:
    """Return why memory of a process is where it is, from whoever manages it.

    Args:
        pid: The process.
        addresses: First, and one past the last; None: all of its memory.
        pages: First and last page instead, counted from its first managed page; of
            units where its daemon works in units of several pages.
        directory: Where daemons leave word; None: the user's.

    Raises:
        TargetGoneError: No daemon manages the process.
        UsageError: None of its managed memory is in the range.
        NotPermittedError: Its daemon is another user's.
    """
    runs = running(directory)
    if not runs:
        raise TargetGoneError(
            f"pid {pid}: no isotherm runs", hint=f"isotherm run --pid {pid}"
        )
    missing: IsothermError | None = None
    for run in runs:
        path = Path(run.socket or "")
        try:
            if pages is not None:
                whole = ask(path, Question("explain", pid))
                first, page_bytes = int(whole["range"][0]), int(whole["page_bytes"])
                addresses = (
                    first + pages[0] * page_bytes,
                    first + (pages[1] + 1) * page_bytes,
                )
            start, end = addresses or (None, None)
            return ask(path, Question("explain", pid, start, end))
        except (TargetGoneError, NotPermittedError) as error:
            missing = error
    assert missing is not None  # noqa: S101  # there was at least one
    raise missing
