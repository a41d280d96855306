"""Fixtures for all tests: a work cache of their own, and real recordings where there are any."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import components  # noqa: F401  before transformers: torchaudio may have to load without its compiled part
from components.runtime.instruction_set import pin_instruction_set
from components.runtime.pins import release_pins

REPOSITORY = Path(__file__).resolve().parents[1]
pin_instruction_set()  # as stages do: tests compare their own results with those of stages
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]


def pytest_configure() -> None:
    """A shell starts a job in the background with Ctrl-C ignored, and processes inherit that; those
    of the tests have Ctrl-C as in a terminal. No worker process of a test runs this.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _release_pins() -> Iterator[None]:
    """What a test has taken from a work cache is no longer in use after it: a process has one
    cache, the tests have many.
    """
    yield
    release_pins()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty work cache."""
    folder = tmp_path / "work"
    monkeypatch.setenv("LIBRETTO_WORK", str(folder))
    return folder


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings (its README says what is in it); the test is skipped where
    there is none.
    """
    folder = Path(os.environ.get("LIBRETTO_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "README.md").is_file():
        pytest.skip(f"recordings are not there: {folder}; LIBRETTO_TEST_DATA names another folder")
    return folder


@pytest.fixture(scope="session")
def world_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of tests/world.py with features, made once."""
    from tests import world

    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LIBRETTO_WORK", str(tmp_path_factory.mktemp("world-work")))
        patch.setenv("LIBRETTO_WORKERS", "1")
        patch.setenv("LIBRETTO_DEVICE", "cpu")
        world.build()
        world.run_features()
    return folder


@pytest.fixture
def world(
    world_template: Path, tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A workspace of one's own, entered: shards, features, tiny checkpoints; an empty work cache,
    one worker, on the CPU.
    """
    from tests import world

    folder = world.copy(world_template, tmp_path / "world")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LIBRETTO_WORKERS", "1")
    monkeypatch.setenv("LIBRETTO_DEVICE", "cpu")
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The system's Chromium; none is downloaded."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        pytest.skip("the package chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def bucket_server() -> Iterator[Any]:
    """An S3 server on loopback with its proxy, for the tests of a module."""
    from tests.bucket import served

    with served() as bucket:
        yield bucket


@pytest.fixture
def bucket(bucket_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The bucket ``recordings``, reached as users reach theirs; nothing goes wrong with it yet."""
    from components.runtime import s3 as remote
    from tests.bucket import environment

    for name, value in environment(bucket_server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.02)
    bucket_server.fault = lambda method, path: ""
    bucket_server.requests.clear()
    yield bucket_server
    remote._filesystem.cache_clear()
