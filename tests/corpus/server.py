"""An HTTP server on loopback that gives files with Range support, and fails as asked."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Mirror:
    """What is served, by path, how it fails, and what was asked: (path, Range)."""

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(
        default_factory=list
    )  # after so many bytes the connection ends, an answer each
    hold: threading.Event | None = None  # a cut connection stays open and silent until this is set
    status: int = 0  # answered to everything
    ranges: bool = True  # else each answer starts at the first byte
    lengths: bool = True  # else no answer says how long it is
    asked: list[tuple[str, str]] = field(default_factory=list)
    address: str = ""


@contextmanager
def serving(mirror: Mirror) -> Iterator[Mirror]:
    """Serves on a free port of loopback until left."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            mirror.asked.append((self.path, wanted))
            data = mirror.files.get(self.path)
            if mirror.status or data is None:
                self.send_error(mirror.status or 404)
                return
            match = re.fullmatch(r"bytes=(\d+)-", wanted)
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
            rest = data[start:]
            cut = mirror.cuts.pop(0) if mirror.cuts else len(rest)
            self.wfile.write(rest[:cut])
            if cut < len(rest) and mirror.hold:
                self.wfile.flush()
                mirror.hold.wait(30)

        def log_message(self, *_: object) -> None:
            """Nothing: the tests look at ``asked``."""

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
