"""The watcher: keeps the file of a node's pods as the API server has them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from isotherm.core.errors import IsothermError, NotPermittedError
from isotherm.daemon.pods.api import Change, GoneError, PodApi
from isotherm.daemon.pods.book import Pod, write_book

#: Seconds before a server that does not answer is asked again, doubled every time.
FIRST_REST_S: Final = 1.0
LONGEST_REST_S: Final = 30.0

log = structlog.get_logger()


class Watcher:
    """Lists once, follows changes, lists again where the server has forgotten.

    While there is no answer the file stays as it is: pods go on on the terms that
    were known last.

    Args:
        api: Whom to ask.
        path: The file.
        wait: Waits so many seconds; True: somebody asks for the end.
    """

    def __init__(self, api: PodApi, path: Path, wait: Callable[[float], bool]) -> None:
        self._api, self._path, self._wait = api, path, wait
        self._pods: dict[str, Pod] = {}
        self._version = ""
        self._written: tuple[Pod, ...] | None = None

    def run(self) -> None:
        """Keep the file until somebody asks for the end.

        Raises:
            NotPermittedError: The account may not list or watch pods.
            ConfigError: The file cannot be written.
        """
        rest_s = FIRST_REST_S
        while not self._wait(0.0):
            began = time.monotonic()
            try:
                if not self._version:
                    self._pods, self._version = self._api.list()
                    self._write()
                if self._follow():
                    return
            except NotPermittedError:
                raise
            except GoneError as error:
                log.info("pods", again=error.message)
                self._version = ""
            except IsothermError as error:
                if error.exit_code != 1:  # the file, not the server
                    raise
                log.warning("pods", why=error.message, again_s=rest_s)
            if time.monotonic() - began > LONGEST_REST_S:
                rest_s = FIRST_REST_S
            if self._wait(rest_s):
                return
            rest_s = min(2 * rest_s, LONGEST_REST_S)

    def _follow(self) -> bool:
        """Take changes until the watch ends; return whether the end is asked for."""
        for told in self._api.watch(self._version):
            if isinstance(told, str):
                self._version = told
            else:
                self._take(told)
                self._write()
            if self._wait(0.0):
                return True
        return False

    def _take(self, change: Change) -> None:
        if change.gone:
            self._pods.pop(change.pod.uid, None)
        else:
            self._pods[change.pod.uid] = change.pod

    def _write(self) -> None:
        """Write the file where anything in it has changed."""
        now = tuple(sorted(self._pods.values(), key=lambda pod: pod.uid))
        if now != self._written:
            write_book(self._path, now)
            self._written = now
            log.info("pods", pods=len(now), path=str(self._path))
