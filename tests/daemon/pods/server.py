"""An HTTP server that speaks as much of the API as a list and a watch of pods."""

import json
import queue
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

END = object()


def metadata(name: str, uid: str, version: int, **annotations: str) -> dict[str, Any]:
    """Return a pod as the server has it when asked for metadata alone."""
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": uid,
            "resourceVersion": str(version),
            "creationTimestamp": f"2026-11-23T10:00:0{version % 10}Z",
            "labels": {"app": name},
            "annotations": {
                "kubernetes.io/config.seen": "x",
                **{
                    key.replace("__", "/").replace("_", "-"): text
                    for key, text in annotations.items()
                },
            },
        },
    }


class ApiServer(ThreadingHTTPServer):
    """Lists ``pods``, and streams what is put into ``events`` to whoever watches.

    Attributes:
        pods: By uid, as `metadata` makes them.
        version: Of the list.
        events: Lines of the watch; ``END`` ends it.
        asked: Path and headers of every request.
        status: Answered instead, where it is not 200.
        page: Pods in one answer to a list.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pods: dict[str, dict[str, Any]] = {}
        self.version = 7
        self.events: queue.Queue[Any] = queue.Queue()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.status, self.page = 200, 500
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def tell(self, kind: str, item: dict[str, Any]) -> None:
        """Send an event to whoever watches."""
        self.events.put({"type": kind, "object": item})

    def close(self) -> None:
        """End all watches and stop."""
        for _ in range(8):
            self.events.put(END)
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ApiServer

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        asked = dict(urllib.parse.parse_qsl(url.query))
        self.server.asked.append((self.path, dict(self.headers)))
        if self.server.status != 200:
            said = {"kind": "Status", "code": self.server.status, "message": "no"}
            self._answer(self.server.status, said)
        elif url.path != "/api/v1/pods":
            self._answer(404, {"kind": "Status", "message": "not found"})
        elif "watch" in asked:
            self._stream()
        else:
            first, page = int(asked.get("continue") or 0), self.server.page
            items = list(self.server.pods.values())
            following = str(first + page) if first + page < len(items) else ""
            meta = {"resourceVersion": str(self.server.version), "continue": following}
            some = items[first : first + page]
            kind = "PartialObjectMetadataList"
            self._answer(200, {"kind": kind, "metadata": meta, "items": some})

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while (event := self.server.events.get()) is not END:
            line = json.dumps(event).encode() + b"\n"
            # A line may come in pieces.
            for part in (line[:9], line[9:]):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                self.wfile.flush()
            if event["type"] == "ERROR":  # the server's last word
                break
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""
