"""The watcher against a server that speaks the API, as a process too."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isotherm.core.errors import (
    ConfigError,
    IsothermError,
    NotPermittedError,
    UnsupportedError,
)
from isotherm.daemon.pods import watch as watch_module
from isotherm.daemon.pods.api import Change, GoneError, PodApi, Server
from isotherm.daemon.pods.book import Pod, read_book
from isotherm.daemon.pods.watch import Watcher

from .conftest import DB, JOB, STATIC, WEB
from .server import END, ApiServer, metadata

pytest.importorskip("httpx", reason="httpx, which asks the API server, is missing")

#: What a test waits for at most, on a busy machine.
LIMIT_S = 60.0


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """Return a server with two pods."""
    made = ApiServer()
    made.pods[DB] = metadata("db", DB, 1, isotherm_io__profile="latency-critical")
    made.pods[WEB] = metadata("web", WEB, 2)
    # Underscores stand for dashes there; the prefix has a dot.
    annotations = made.pods[DB]["metadata"]["annotations"]
    annotations["isotherm.io/profile"] = annotations.pop("isotherm-io/profile")
    yield made
    made.close()


@pytest.fixture
def api(server: ApiServer, tmp_path: Path) -> Iterator[PodApi]:
    """Return a client of it."""
    token = tmp_path / "token"
    token.write_text("one\n")
    with PodApi(Server(server.url, token), "worker-1") as made:
        yield made


def names(path: Path) -> dict[str, str]:
    """Return profiles by name of the file; nothing while it is not there."""
    try:
        pods = read_book(path)
    except ConfigError:
        return {}
    return {p.name: p.annotations.get("isotherm.io/profile", "") for p in pods}


def await_true(condition: Callable[[], bool], what: str) -> None:
    """Wait until something holds."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def test_a_list_has_metadata_of_this_node_alone(server: ApiServer, api: PodApi) -> None:
    """Names and our annotations; others' annotations are not kept."""
    pods, version = api.list()
    assert "7" == version
    assert (
        Pod(
            uid=DB,
            namespace="shop",
            name="db",
            created="2026-11-23T10:00:01Z",
            annotations={"isotherm.io/profile": "latency-critical"},
        )
        == pods[DB]
    )
    assert {} == pods[WEB].annotations
    path, headers = server.asked[0]
    assert "fieldSelector=spec.nodeName%3Dworker-1" in path
    assert "PartialObjectMetadataList" in headers["Accept"]
    assert "Bearer one" == headers["Authorization"]


def test_a_long_list_comes_in_pages(server: ApiServer, api: PodApi) -> None:
    """All of them, whatever the server gives at once."""
    server.page = 2
    for at in range(5):
        uid = f"{at}{JOB[1:]}"
        server.pods[uid] = metadata(f"job-{at}", uid, at)
    assert set(server.pods) == api.list()[0].keys()
    assert -(-len(server.pods) // 2) == len(server.asked) == 3


def test_a_renewed_token_is_used(
    server: ApiServer, api: PodApi, tmp_path: Path
) -> None:
    """The kubelet replaces the file while we run."""
    api.list()
    (tmp_path / "token").write_text("two")
    api.list()
    assert ["Bearer one", "Bearer two"] == [h["Authorization"] for _, h in server.asked]


def test_a_static_pod_goes_by_its_hash(server: ApiServer, api: PodApi) -> None:
    """Its mirror's uid is not what its control group is called."""
    item = metadata("kube-proxy", JOB, 3)
    item["metadata"]["annotations"]["kubernetes.io/config.hash"] = STATIC
    server.pods = {JOB: item}
    assert {STATIC} == api.list()[0].keys()


def test_a_watch_gives_changes_and_versions(server: ApiServer, api: PodApi) -> None:
    """Added, modified, deleted; a bookmark is a version to go on from."""
    server.tell("ADDED", metadata("job", JOB, 8))
    server.tell("DELETED", server.pods[WEB])
    server.tell("BOOKMARK", {"metadata": {"resourceVersion": "42"}})
    server.events.put(END)
    told = list(api.watch("7"))
    changes = [one for one in told if isinstance(one, Change)]
    assert [("job", False), ("web", True)] == [(c.pod.name, c.gone) for c in changes]
    assert ["8", "2", "42"] == [one for one in told if isinstance(one, str)]
    path = server.asked[0][0]
    assert "watch=true" in path
    assert "resourceVersion=7" in path


def test_a_version_that_is_forgotten(server: ApiServer, api: PodApi) -> None:
    """410 within the watch, or as its answer: list again."""
    server.tell("ERROR", {"kind": "Status", "code": 410, "message": "too old"})
    with pytest.raises(GoneError, match="410: too old"):
        list(api.watch("1"))
    server.status = 410
    with pytest.raises(GoneError):
        list(api.watch("1"))


@pytest.mark.parametrize("code", [401, 403])
def test_an_account_that_may_not(server: ApiServer, api: PodApi, code: int) -> None:
    """It says what the account needs."""
    server.status = code
    for ask in (api.list, lambda: list(api.watch("1"))):
        with pytest.raises(NotPermittedError, match=f"{code}: no") as error:
            ask()
        assert "list and watch of pods" in (error.value.hint or "")


def test_what_is_no_answer_of_the_api(server: ApiServer, api: PodApi) -> None:
    """A proxy's page, or an event that is none."""
    server.status = 502
    with pytest.raises(IsothermError, match="502"):
        api.list()
    server.status = 200
    server.events.put({"type": "NEWS", "object": {}})
    with pytest.raises(IsothermError, match="expected a Event"):
        list(api.watch("1"))


def test_nobody_listens(tmp_path: Path) -> None:
    """It names the server."""
    free = ApiServer()
    url = free.url
    free.close()
    with (
        PodApi(Server(url), "n") as api,
        pytest.raises(IsothermError, match=f"pods: {url}: no answer"),
    ):
        api.list()


def test_outside_of_a_cluster(tmp_path: Path, monkeypatch) -> None:
    """What is missing of a pod's environment is said."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UnsupportedError, match="this is no pod"):
        Server.of_this_pod(tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    with pytest.raises(UnsupportedError, match="token of a service account"):
        Server.of_this_pod(tmp_path)
    (tmp_path / "token").write_text("x")
    assert "https://[fd00::1]:6443" == Server.of_this_pod(tmp_path).url


def test_the_watcher_keeps_the_file(
    server: ApiServer, api: PodApi, tmp_path: Path, monkeypatch
) -> None:
    """Listed, changed, lost, forgotten: the file follows."""
    monkeypatch.setattr(watch_module, "FIRST_REST_S", 0.01)
    monkeypatch.setattr(watch_module, "LONGEST_REST_S", 0.01)
    path, over = tmp_path / "pods.json", threading.Event()
    watcher = Watcher(api, path, over.wait)
    thread = threading.Thread(target=watcher.run)
    thread.start()
    try:
        await_true(lambda: len(names(path)) == 2, "the list is written")
        changed = metadata("web", WEB, 9)
        changed["metadata"]["annotations"]["isotherm.io/profile"] = "batch"
        server.tell("MODIFIED", changed)
        await_true(lambda: names(path)["web"] == "batch", "a change is written")
        server.status = 503
        server.events.put(END)
        seen = len(server.asked)
        await_true(lambda: len(server.asked) > seen + 2, "it asks again")
        assert 2 == len(names(path))
        server.status = 200
        server.pods = {JOB: metadata("job", JOB, 3)}
        server.tell("ERROR", {"kind": "Status", "code": 410, "message": "too old"})
        await_true(lambda: list(names(path)) == ["job"], "it lists again")
        server.tell("DELETED", server.pods[JOB])
        await_true(lambda: names(path) == {}, "a pod that has gone is taken out")
        assert () == read_book(path)
    finally:
        over.set()
        server.events.put(END)
        thread.join(LIMIT_S)
    assert not thread.is_alive()


@pytest.mark.slow
def test_the_command_ends_when_it_is_told_to(server: ApiServer, tmp_path: Path) -> None:
    """SIGTERM ends a watch in which nothing comes."""
    path = tmp_path / "pods.json"
    words = ["pods", "watch", str(path), "--server", server.url]
    with subprocess.Popen(
        [sys.executable, "-m", "isotherm", *words],
        env={**os.environ, "NODE_NAME": "worker-1"},
    ) as running:
        try:
            await_true(lambda: len(names(path)) == 2, "the list is written")
            await_true(lambda: len(server.asked) == 2, "it watches")
        finally:
            running.terminate()
        assert 0 == running.wait(LIMIT_S)


@pytest.mark.slow
def test_the_command_says_what_the_account_lacks(
    server: ApiServer, tmp_path: Path
) -> None:
    """Exit code 4: the kubelet shows it and tries again."""
    server.status = 403
    words = [
        "pods",
        "watch",
        str(tmp_path / "p"),
        "--server",
        server.url,
        "--node",
        "n",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "isotherm", *words],
        check=False,
        capture_output=True,
        text=True,
    )
    assert 4 == done.returncode
    assert "list and watch of pods" in done.stderr
