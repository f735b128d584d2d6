"""``isotherm pods``: the pods of this node, and what their annotations ask for."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from isotherm.cli.output import note, print_json, print_table, start_logging, table
from isotherm.core.errors import UsageError
from isotherm.core.suggest import did_you_mean

EPILOGUE = """\
Examples:
  isotherm pods
  isotherm pods /run/isotherm-pods/pods.json
  isotherm pods watch /run/isotherm-pods/pods.json --node worker-1
  isotherm run --pods /run/isotherm-pods/pods.json

Overhead: the list reads some directories of /sys/fs/cgroup; the watcher keeps
one connection to the API server and sleeps while nothing changes.
"""

app = App(name="pods", help_epilogue=EPILOGUE, help_format="plaintext")

Flag = Parameter(negative=(), show_default=False)


@app.default
def pods(
    file: Path | None = None,
    /,
    *,
    config: Path | None = None,
    root: Path = Path("/"),
    json: Annotated[bool, Flag] = False,
) -> int:
    """Show the pods of this node, by their control groups.

    Parameters
    ----------
    file
        What isotherm pods watch keeps: names, and the terms that annotations ask for.
    config
        A TOML file; its [pods] says what pods may ask for.
    root
        Look below this directory instead of /.
    json
        Print one JSON document.
    """
    start_logging()
    meant = "" if file is None or file.exists() else did_you_mean(str(file), ["watch"])
    if meant:
        raise UsageError(f"{file}: no such file{meant}", hint="isotherm pods --help")
    from isotherm.daemon.config import read_config  # noqa: PLC0415  # --help
    from isotherm.daemon.pods.book import read_book  # noqa: PLC0415  # likewise
    from isotherm.daemon.pods.cgroups import (  # noqa: PLC0415  # likewise
        find_pods,
        list_containers,
    )
    from isotherm.daemon.pods.roster import derive_states  # noqa: PLC0415  # likewise

    known = None if file is None else read_book(file)
    states = derive_states(find_pods(root), known, read_config(config).pods)
    if json:
        rows = [
            {
                **state.to_dict(),
                "containers": [one.id for one in list_containers(state.group)],
            }
            for state in states
        ]
        print_json({"pods": rows})
        return 0
    made = table([(text, "left") for text in ("pod", "class", "profile")])
    for heading in ("least", "most", "weight"):
        made.add_column(heading, justify="right")
    made.add_column("")
    for state in states:
        name = state.group.uid if state.pod is None else state.pod.full_name
        terms = state.to_dict()["terms"] or {}
        made.add_row(
            name,
            state.group.qos.value,
            terms.get("profile", "(rest)" if state.managed else "left alone"),
            terms.get("guarantee", ""),
            terms.get("maximum", ""),
            f"{terms['weight']:g}" if terms else "",
            "" if state.why is None else "see below",
        )
    print_table(made)
    for state in states:
        if state.why is not None:
            name = state.group.uid if state.pod is None else state.pod.full_name
            why = state.why.removeprefix("pod ")
            note(why if why.startswith(name) else f"{name}: {why}")
    return 0


@app.command
def watch(
    file: Path,
    /,
    *,
    node: str | None = None,
    server: str | None = None,
    token: Path | None = None,
    authority: Path | None = None,
) -> int:
    """Keep a file of this node's pods as the API server has them, until told to end.

    It needs a service account that may list and watch pods, no right on this host but
    to write the file, and asks for metadata alone.

    Parameters
    ----------
    file
        Replaced whenever a pod or its annotations have changed.
    node
        The node's name (default: NODE_NAME of the environment).
    server
        The API server's URL (default: that of the cluster this runs in).
    token
        File of the bearer token, where --server is given.
    authority
        File of the certificate authority, where --server is given.
    """
    start_logging()
    node = node or os.environ.get("NODE_NAME")
    if not node:
        raise UsageError(
            "node: expected the name of this node",
            hint="--node NAME, or NODE_NAME in the environment (spec.nodeName)",
        )
    from isotherm.daemon.pods.api import PodApi, Server  # noqa: PLC0415  # --help
    from isotherm.daemon.pods.watch import Watcher  # noqa: PLC0415  # likewise

    if server is None:
        where = Server.of_this_pod()
    else:
        where = Server(server.rstrip("/"), token, authority)
    # The first process of a container ignores what it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with PodApi(where, node) as api:
        Watcher(api, file, _wait).run()
    return 0


def _wait(seconds: float) -> bool:
    if seconds > 0:
        time.sleep(seconds)
    return False
