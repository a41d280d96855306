"""A model hub on loopback: the addresses, headers and error codes that huggingface_hub meets, and
faults on demand.

Small files carry git's blob hash as their ETag and are redirected within the hub; weights
(``.safetensors``, ``.bin``) are redirected to another host, as large files are, with their SHA-256
in ``X-Linked-Etag``.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Request:
    method: str
    path: str
    range: str
    authorization: str
    agent: str
    packed: bool  # whether gzip would do, too
    status: int = 0  # of the answer


@dataclass
class Hub:
    """Repositories by name, each a folder of files at REVISION; what was asked; and what goes
    wrong.
    """

    address: str = ""
    repositories: dict[str, Path] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    gated: set[str] = field(default_factory=set)
    status: int = 0  # answers everything with this
    cut_after: int = 0  # bytes of a body, then the connection closes, `cuts` times
    cuts: int = 0
    down_after: bool = False  # it answers 503 once the cuts are made
    commit: str = REVISION  # that it says it serves
    damaged: set[str] = field(default_factory=set)  # files whose bytes arrive changed

    def bodies(self, file: str) -> list[Request]:
        """Requests for the bytes of a file, without those that were redirected."""
        return [
            each
            for each in self.requests
            if each.method == "GET" and each.path.startswith("/cdn/") and each.path.endswith(file)
        ]


def large(file: str) -> bool:
    return file.endswith((".safetensors", ".bin"))


def etag(path: Path) -> str:
    data = path.read_bytes()
    return (
        hashlib.sha256(data).hexdigest()
        if large(path.name)
        else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.hub.requests[-1].status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.send_body(body)

    def send_body(self, body: bytes) -> None:
        if self.hub.cuts and len(body) > self.hub.cut_after > 0:
            self.hub.cuts -= 1
            self.hub.status = 503 if self.hub.down_after else 0
            self.wfile.write(body[: self.hub.cut_after])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def fails(self, status: int, code: str) -> None:
        self.answer(status, {"X-Error-Code": code, "X-Error-Message": f"{code} of the test"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, given = unquote(urlsplit(self.path).path), self.headers.get
        packed = "gzip" in (given("Accept-Encoding") or "")
        asked = Request(
            self.command,
            path,
            given("Range") or "",
            given("Authorization") or "",
            given("User-Agent") or "",
            packed,
        )
        self.hub.requests.append(asked)
        if self.hub.status:
            self.fails(self.hub.status, "")
            return
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "resolve-cache"]:
            repo, revision, file = "/".join(parts[3:5]), parts[5], "/".join(parts[6:])
        elif parts[0] == "api":
            repo, revision, file = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main", ""
        else:
            parts = parts[1:] if parts[0] == "cdn" else parts
            repo, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        folder = self.hub.repositories.get(repo)
        if folder is None:
            self.fails(404 if asked.authorization else 401, "RepoNotFound")
        elif repo in self.hub.gated and not path.startswith("/api/models"):
            self.fails(403 if asked.authorization else 401, "GatedRepo")
        elif revision not in (REVISION, "main"):
            self.fails(404, "RevisionNotFound")
        elif not file:
            listed = [{"rfilename": each.name} for each in sorted(folder.iterdir())]
            body = json.dumps(
                {"id": repo, "modelId": repo, "sha": REVISION, "siblings": listed}
            ).encode()
            self.answer(200, {"Content-Type": "application/json"}, body)
        elif not (folder / file).is_file():
            self.fails(404, "EntryNotFound")
        else:
            self.serve(path, folder / file, asked.range)

    def serve(self, path: str, file: Path, asked: str) -> None:
        body, headers = (
            file.read_bytes(),
            {"ETag": f'"{etag(file)}"', "X-Repo-Commit": self.hub.commit, "Accept-Ranges": "bytes"},
        )
        if large(file.name) and not path.startswith("/cdn/"):
            linked = {
                "X-Linked-Etag": headers["ETag"],
                "X-Linked-Size": str(len(body)),
                "ETag": '"of the redirect"',
            }
            self.answer(302, {**headers, **linked, "Location": f"{self.other_address()}/cdn{path}"})
            return
        if "/resolve/" in path and not path.startswith("/cdn/"):
            self.answer(
                307,
                {
                    **headers,
                    "Location": f"/api/resolve-cache/models{path.replace('/resolve/', '/')}",
                },
            )
            return
        if file.name in self.hub.damaged:
            body = body[:-1] + bytes([body[-1] ^ 1])
        if (
            asked and not self.hub.requests[-1].packed
        ):  # a network that packs does not cut out parts
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            self.answer(
                206,
                {**headers, "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"},
                body[start:],
            )
        elif self.command == "HEAD":
            self.answer(200, {**headers, "Content-Length": str(len(body))})
        else:
            self.answer(200, headers, body)

    def other_address(self) -> str:
        """The same server under another host name: to it a token must not go."""
        return self.hub.address.replace("127.0.0.1", "localhost")


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that serves until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
