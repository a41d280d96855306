"""An HTTP server on loopback that serves files with Range support, and fails on demand."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Mirror:
    """What is served, by path, how it fails, and what was requested: (path, Range)."""

    files: dict[str, bytes] = field(default_factory=dict)
    # number of bytes after which the connection ends, of each response in turn
    cuts: list[int] = field(default_factory=list)
    stall: threading.Event | None = None  # a cut connection stays open and silent until this is set
    status: int = 0  # of every response; 0: none
    ranges: bool = True  # else each response starts at the first byte
    lengths: bool = True  # else no response says how long it is
    requests: list[tuple[str, str]] = field(default_factory=list)
    address: str = ""


@contextmanager
def serving(mirror: Mirror) -> Iterator[Mirror]:
    """Serves on a free port of loopback until the context ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            byte_range = self.headers.get("Range", "")
            mirror.requests.append((self.path, byte_range))
            data = mirror.files.get(self.path)
            if mirror.status or data is None:
                self.send_error(mirror.status or 404)
                return
            match = re.fullmatch(r"bytes=(\d+)-", byte_range)
            start = int(match[1]) if match and mirror.ranges else 0
            if start and start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            if mirror.lengths:
                self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            body = data[start:]
            cut = mirror.cuts.pop(0) if mirror.cuts else len(body)
            self.wfile.write(body[:cut])
            if cut < len(body) and mirror.stall:
                self.wfile.flush()
                mirror.stall.wait(30)

        def log_message(self, *_: object) -> None:
            """Nothing: the tests look at ``requests``."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    mirror.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield mirror
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
