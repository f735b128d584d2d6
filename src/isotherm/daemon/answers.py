"""What a running daemon answers: its history joined with its state."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from isotherm.core.errors import UsageError
from isotherm.core.units import PAGE_BYTES
from isotherm.daemon.history import History
from isotherm.daemon.live_view import LiveView
from isotherm.daemon.socket import ExplainSocket, Question
from isotherm.daemon.why_live import explain_live, pid_of
from isotherm.loop.epoch import Step
from isotherm.observability.jsonable import encode_json

if TYPE_CHECKING:
    from isotherm.daemon.service import Service


#: Different views of one epoch that are kept for who asks for the same.
MOST_VIEWS: Final = 16


class Answers:
    """Watches a service and serves ``isotherm explain``; a context manager.

    Args:
        service: The daemon's; it is observed from now on.
        path: Where the socket is to be.
        targets: What the daemon was told to manage, in words.

    Raises:
        UnsupportedError: The path is too long for a socket.
        NotPermittedError: The socket cannot be made there.
    """

    def __init__(self, service: "Service", path: Path, targets: str = "") -> None:
        self.history = History(service.machine, service.engine, service.unit_pages)
        self._service, self._targets = service, targets
        self._view = LiveView(service, self.history, targets)
        self._views: dict[Question, msgspec.Raw] = {}
        self.socket = ExplainSocket(path, self.answer)
        service.observers.append(self.observe)

    def observe(self, service: "Service", step: Step) -> None:
        """Take in one epoch; in other units than before the history begins anew."""
        if service.unit_pages != self.history.unit_pages:
            self.history = History(service.machine, service.engine, service.unit_pages)
            self._view.history = self.history
        else:
            self.history.observe(step, service.gate.wished)
        self._view.observe(service, step)
        self._views = {}  # one that is being made is kept with the old ones

    def answer(self, question: Question) -> Mapping[str, Any] | msgspec.Raw:
        """Return what is asked for, as what JSON is made of.

        Raises:
            UsageError: A question without its process, or a range without pages.
            TargetGoneError: The process is not managed.
        """
        state = self.state()
        if question.ask == "status":
            return {**state, "processes": self._processes()}
        if question.ask == "view":
            return self._view_of(question)
        if question.ask == "tenants":
            tenants = self._service.tenants
            return {**state, "tenants": [] if tenants is None else tenants.report()}
        if question.pid is None:
            raise UsageError("explain: expected a pid")
        return explain_live(
            self.history, question.pid, question.start, question.end, state
        )

    def _view_of(self, question: Question) -> msgspec.Raw:
        """Return a view as JSON; until the next epoch whoever asks gets the same."""
        kept = self._views
        found = kept.get(question)
        if found is None:
            view = self._view.make(
                question.most_ranges,
                heat=question.heat,
                order=question.order,
                first=question.first_range,
            )
            found = msgspec.Raw(encode_json(view))
            if len(kept) < MOST_VIEWS:
                kept[question] = found
        return found

    def state(self) -> dict[str, Any]:
        """Return what the daemon says of itself, in raw units."""
        service = self._service
        tally = service.tally
        promoted, demoted = tally.promoted_pages, tally.demoted_pages
        if service.dry_run:  # as in its result: what would have moved
            promoted, demoted = service.wished_pages
        return {
            "targets": self._targets,
            "policy": service.config.loop.policy,
            "dry_run": service.dry_run,
            "epochs": service.epochs,
            "epoch_s": service.pacer.epoch_s,
            "brake_share": service.brake.share,
            "fast_share": service.fast_share,
            "managed_pages": service.managed_pages,
            "unit_pages": self.history.unit_pages,
            "promoted_pages": promoted,
            "demoted_pages": demoted,
            "promised_ns": tally.promised_ns,
            "realised_ns": tally.realised_ns,
            "history_bytes": self.history.bytes,
        }

    def _processes(self) -> list[dict[str, Any]]:
        pages: dict[int, int] = {}
        for space in self.history.spaces:
            pid = pid_of(space)
            if pid is not None:
                pages[pid] = pages.get(pid, 0) + space.pages
        return [
            {"pid": pid, "mapped_bytes": nr * self.history.unit_pages * PAGE_BYTES}
            for pid, nr in sorted(pages.items())
        ]

    def close(self) -> None:
        """Stop answering; may be called again."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop answering."""
        self.close()
