"""Pods of a node from the API server: a list, and then what changes.

Only metadata is asked for (``PartialObjectMetadata``): no container, no environment
and no secret that stands in one ever comes here. Needs ``list`` and ``watch`` of pods
and nothing else; requests name the node (``fieldSelector``), so that a server that
authorizes by selectors can refuse others.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

import msgspec

from isotherm.core.errors import IsothermError, NotPermittedError, UnsupportedError
from isotherm.daemon.pods.book import PREFIX, Pod

#: Where a pod finds its service account (docs: "Accessing the Kubernetes API").
ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: Of a static pod's mirror: what its control group goes by instead of its uid.
STATIC: Final = "kubernetes.io/config.hash"

_AS: Final = "application/json;as={};g=meta.k8s.io;v=v1"
#: Pods in one answer to a list; the server says where to go on.
_PAGE: Final = 500
#: Seconds that a watch lasts before the server ends it, and that nothing may come.
_WATCH_S: Final = 300
_SILENCE_S: Final = 60.0
_ANSWER_S: Final = 15.0


T = TypeVar("T")


class GoneError(IsothermError):
    """The server no longer knows what happened since: list again."""


class ObjectMeta(msgspec.Struct, frozen=True):
    """``metadata`` of an object, as much as is looked at."""

    uid: str = ""
    namespace: str = ""
    name: str = ""
    creationTimestamp: str | None = None  # noqa: N815  # the API's name
    annotations: dict[str, str] | None = None
    resourceVersion: str = ""  # noqa: N815  # likewise


class Object(msgspec.Struct, frozen=True):
    """A ``PartialObjectMetadata``."""

    metadata: ObjectMeta


class ListMeta(msgspec.Struct, frozen=True):
    """``metadata`` of a list."""

    resourceVersion: str = ""  # noqa: N815  # the API's name
    continue_: str = msgspec.field(default="", name="continue")


class Objects(msgspec.Struct, frozen=True):
    """A ``PartialObjectMetadataList``."""

    metadata: ListMeta
    items: list[Object]


class Event(msgspec.Struct, frozen=True):
    """A line of a watch."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: msgspec.Raw


class Status(msgspec.Struct, frozen=True):
    """What an ``ERROR`` says."""

    code: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What has happened to a pod.

    Attributes:
        pod: As it is now, or was last.
        gone: It is no more.
    """

    pod: Pod
    gone: bool


@dataclass(frozen=True, slots=True)
class Server:
    """Where the API server is, and who we are to it.

    Attributes:
        url: ``https://HOST:PORT``.
        token: File of the bearer token, read for every request: it is renewed; None:
            none is sent.
        authority: File of the certificate authority; None: those of the system.
    """

    url: str
    token: Path | None = None
    authority: Path | None = None

    @classmethod
    def of_this_pod(cls, account: Path = ACCOUNT) -> "Server":
        """Return the server of the cluster that this process runs in.

        Raises:
            UnsupportedError: It runs in none, or has no service account.
        """
        host = os.environ.get("KUBERNETES_SERVICE_HOST")
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise UnsupportedError(
                "pods: KUBERNETES_SERVICE_HOST is not set: this is no pod",
                hint="name the API server: --server URL",
            )
        if not (account / "token").is_file():
            raise UnsupportedError(
                f"pods: {account}/token: expected the token of a service account",
                hint="automountServiceAccountToken, or a projected volume",
            )
        shown = f"[{host}]" if ":" in host else host
        authority = account / "ca.crt"
        return cls(f"https://{shown}:{port}", account / "token", authority)


class PodApi:
    """Asks for the pods of one node; a context manager.

    Args:
        server: Whom.
        node: Name of the node.

    Raises:
        UnsupportedError: httpx is not installed.
    """

    def __init__(self, server: Server, node: str) -> None:
        try:
            import httpx  # noqa: PLC0415  # an extra
        except ImportError:
            raise UnsupportedError(
                "pods: httpx, which asks the API server, is not installed",
                hint="pip install 'isotherm[kubernetes]'",
            ) from None
        import ssl  # noqa: PLC0415  # --help

        self._httpx, self._server = httpx, server
        self._selector = f"spec.nodeName={node}"
        verify: Any = True
        if server.authority is not None:
            verify = ssl.create_default_context(cafile=str(server.authority))
        self._client = httpx.Client(
            base_url=server.url,
            verify=verify,
            timeout=httpx.Timeout(_ANSWER_S, read=_SILENCE_S),
            trust_env=False,  # the server is in this cluster: no proxy of elsewhere
        )

    def list(self) -> tuple[dict[str, Pod], str]:
        """Return all pods by uid, and the version that a watch goes on from.

        Raises:
            NotPermittedError: The account may not list pods.
            GoneError: The list has changed too much under us; begin again.
            IsothermError: There is no answer, or not one that is expected.
        """
        pods: dict[str, Pod] = {}
        following, version = "", ""
        while True:
            asked = {"limit": str(_PAGE)}
            if following:
                asked["continue"] = following
            data = self._get(asked)
            found = _decoded(data, Objects)
            for item in found.items:
                pod = _pod_of(item)
                pods[pod.uid] = pod
            version = found.metadata.resourceVersion
            following = found.metadata.continue_
            if not following:
                return pods, version

    def watch(self, version: str, seconds: int = _WATCH_S) -> Iterator[Change | str]:
        """Give changes as they come, and versions to go on from.

        Ends when the server ends it, or is silent for a minute: then go on from the
        last version.

        Args:
            version: Go on from here.
            seconds: Have the server end it after so long.

        Raises:
            NotPermittedError: The account may not watch pods.
            GoneError: The version is too old: list again.
            IsothermError: The connection failed, or what came is not expected.
        """
        asked = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
            "resourceVersion": version,
        }
        httpx = self._httpx
        try:
            with self._client.stream(
                "GET", "/api/v1/pods", **self._request(asked, "PartialObjectMetadata")
            ) as answer:
                if answer.status_code != 200:
                    answer.read()
                    self._check(answer.status_code, answer.content)
                for line in answer.iter_lines():
                    if line.strip():
                        yield from _told(line)
        except httpx.ReadTimeout:
            return
        except httpx.HTTPError as error:
            raise self._failed(error) from None

    def _request(self, asked: dict[str, str], kind: str) -> dict[str, Any]:
        headers = {"Accept": _AS.format(kind), "User-Agent": "isotherm-pods"}
        if self._server.token is not None:
            try:
                token = self._server.token.read_text().strip()
            except OSError as error:
                raise IsothermError(f"{self._server.token}: {error.strerror}") from None
            headers["Authorization"] = f"Bearer {token}"
        return {
            "headers": headers,
            "params": {"fieldSelector": self._selector, **asked},
        }

    def _get(self, asked: dict[str, str]) -> bytes:
        request = self._request(asked, "PartialObjectMetadataList")
        try:
            answer = self._client.get("/api/v1/pods", **request)
        except self._httpx.HTTPError as error:
            raise self._failed(error) from None
        self._check(answer.status_code, answer.content)
        content: bytes = answer.content
        return content

    def _failed(self, error: Exception) -> IsothermError:
        why = str(error) or type(error).__name__
        return IsothermError(f"pods: {self._server.url}: no answer: {why}")

    def _check(self, code: int, content: bytes) -> None:
        if code == 200:
            return
        try:
            said = msgspec.json.decode(content, type=Status).message
        except msgspec.MsgspecError:
            said = ""
        text = f"pods: {self._server.url}: {code}{f': {said}' if said else ''}"
        if code in (401, 403):
            raise NotPermittedError(
                text, hint="the service account needs list and watch of pods"
            )
        raise (GoneError if code == 410 else IsothermError)(text)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()


def _told(line: str) -> Iterator[Change | str]:
    """Give what a line of a watch says."""
    event = _decoded(line.encode(), Event)
    if event.type == "ERROR":
        status = _decoded(bytes(event.object), Status)
        error = GoneError if status.code == 410 else IsothermError
        raise error(f"pods: the watch ended: {status.code}: {status.message}")
    found = _decoded(bytes(event.object), Object)
    if event.type != "BOOKMARK":
        yield Change(_pod_of(found), event.type == "DELETED")
    if found.metadata.resourceVersion:
        yield found.metadata.resourceVersion


def _pod_of(found: Object) -> Pod:
    meta = found.metadata
    said = meta.annotations or {}
    return Pod(
        uid=said.get(STATIC, meta.uid).lower(),
        namespace=meta.namespace,
        name=meta.name,
        created=meta.creationTimestamp or "",
        annotations={
            name: text for name, text in said.items() if name.startswith(PREFIX)
        },
    )


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise IsothermError(
            f"pods: expected a {kind.__name__} of the API server: {error}"
        ) from None
