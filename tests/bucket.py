"""A real S3 server on loopback (moto's, in a process of its own), and between it and the code a
proxy that breaks answers on demand.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

KEY, SECRET = "AKIAPLANTEDKEY00", "planted-secret-of-the-bucket"
SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
EXPIRED = (
    b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
)
INTERNAL = (
    b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
)
ANSWERS = {"500": (500, INTERNAL), "503": (503, SLOW_DOWN), "expired": (400, EXPIRED)}
STALL = 4.0  # seconds; tests ask with a timeout of two


class Bucket:
    """The bucket ``recordings``, and what is to go wrong: ``fault(method, path)`` names it for a
    request, or says nothing.
    """

    def __init__(self, url: str) -> None:
        self.url = url  # of the proxy
        self.requests: Counter[tuple[str, str]] = Counter()  # (method, path)
        self.fault: Callable[[str, str], str] = lambda method, path: ""

    def first(self, kind: str, times: int = 1, ending: str = "", method: str = "GET") -> None:
        """The first answers to each file whose path ends so go wrong."""
        seen: Counter[str] = Counter()

        def fault(requested: str, path: str) -> str:
            if requested != method or not path.endswith(ending) or path.count("/") < 2:
                return ""
            seen[path] += 1
            return kind if seen[path] <= times else ""

        self.fault = fault

    def always(self, kind: str, ending: str = "", method: str = "GET") -> None:
        self.first(kind, 1_000_000, ending, method)

    @property
    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket="recordings", Key=name, Body=data)

    def names(self) -> list[str]:
        """The keys of all objects."""
        return [
            item["Key"]
            for item in self.client.list_objects_v2(Bucket="recordings").get("Contents", ())
        ]

    def fill(self, folder: Path, prefix: str) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())


def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served() -> Iterator[Bucket]:
    """The bucket behind its proxy, until the end."""
    inner = port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(inner)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait(f"http://127.0.0.1:{inner}", server)
            bucket = Bucket("")
            proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(bucket, inner))
            proxy.daemon_threads = True
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            bucket.url = f"http://127.0.0.1:{proxy.server_port}"
            bucket.client.create_bucket(Bucket="recordings")
            yield bucket
            proxy.shutdown()
        finally:
            server.kill()


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            assert server.poll() is None, "moto's server ended"
            time.sleep(0.2)
    pytest.fail("moto's server did not start in a minute")


def _handler(bucket: Bucket, inner: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            path = unquote(self.path.partition("?")[0])
            bucket.requests[self.command, path] += 1
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kind = bucket.fault(self.command, path)
            if kind == "stall":
                time.sleep(STALL)
            if kind in ANSWERS:
                self._answer(*ANSWERS[kind], [])
                return
            if kind == "gone":
                self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>", [])
                return
            inside = http.client.HTTPConnection("127.0.0.1", inner, timeout=30)
            inside.request(
                self.command,
                self.path,
                body,
                {**dict(self.headers.items()), "Host": f"127.0.0.1:{inner}"},
            )
            answer = inside.getresponse()
            data = answer.read()
            if kind == "wrong" and data:
                data = bytes([data[0] ^ 1]) + data[1:]
            headers = answer.getheaders()
            if kind == "wrong":  # as of a store that sends no checksums along
                headers = [
                    (name, value)
                    for name, value in headers
                    if not name.lower().startswith("x-amz-checksum")
                ]
            self._answer(answer.status, data, headers, cut=kind == "cut")

        def _answer(
            self, status: int, data: bytes, headers: list[tuple[str, str]], cut: bool = False
        ) -> None:
            self.send_response(status)
            by_name = {name.lower(): value for name, value in headers}
            length = (
                by_name.get("content-length", str(len(data)))
                if self.command == "HEAD"
                else str(len(data))
            )
            for name, value in headers:
                if name.lower() not in (
                    "content-length",
                    "transfer-encoding",
                    "connection",
                    "server",
                    "date",
                ):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self.close_connection = True

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


def environment(bucket: Bucket) -> dict[str, str]:
    """What leads s3fs, boto and DVC to the bucket, with little patience."""
    return {
        "AWS_ENDPOINT_URL": bucket.url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "LIBRETTO_S3_TIMEOUT": "2",
        "LIBRETTO_S3_TRIES": "4",
    }
