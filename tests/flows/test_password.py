"""A server beyond loopback has a password."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from components.runtime.settings import work_root
from flows import serve


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (serve.PASSWORD, "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "a-name-of-this-machine"])
def test_none_is_started_without_one(
    host: str, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "start_services", lambda *_: pytest.fail("a server was started"))
    assert serve.main(["--host", host]) == 2
    assert serve.PASSWORD in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    serve.require_password(host)
    assert "PREFECT_API_AUTH_STRING" not in os.environ


@pytest.mark.slow
def test_a_server_refuses_whoever_has_no_password(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started as one beyond loopback would be, with the password in the environment alone."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv(serve.PASSWORD, "people:1234")
    serve.require_password("0.0.0.0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = work_root() / "serve"
    folder.mkdir(parents=True)
    try:
        serve.start_server("127.0.0.1", port, folder)
        url = serve.build_address("127.0.0.1", port)
        request = urllib.request.Request(f"{url}/flows/count", data=b"{}", method="POST")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code == 401
        count = [sys.executable, "-m", "prefect", "work-pool", "ls"]
        environment = {**os.environ, "PREFECT_API_URL": url}
        assert subprocess.run(count, env=environment, capture_output=True).returncode == 0
    finally:
        serve.stop_process(folder, "server")
