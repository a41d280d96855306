"""Runtime settings: from the environment or one file, with absolute paths and ranges; an error
names the variable.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.config.errors import InputError
from components.runtime import data_roots as roots
from components.runtime import settings, world_size
from components.runtime.s3 import as_path
from tests.errors import refused


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings but those of a test."""
    for name in ("SETTINGS", "WORK", "WORK_GB", "MODELS", "DEVICE", "WORKERS", "PROGRESS"):
        monkeypatch.delenv(f"LIBRETTO_{name}", raising=False)
    settings._file.cache_clear()
    yield
    settings._file.cache_clear()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "settings"
    path.write_text(
        "# LIBRETTO_WORKERS=7\n\nLIBRETTO_WORK = "
        f"{tmp_path}/cache\nLIBRETTO_WORKERS=3\nLIBRETTO_PROGRESS={tmp_path}/a=b\n"
    )
    monkeypatch.setenv("LIBRETTO_SETTINGS", str(path))
    return path


def test_a_file_of_settings_is_read(file: Path, tmp_path: Path) -> None:
    assert settings.work_root() == tmp_path / "cache"
    assert settings.workers() == 3
    assert settings.progress_file() == tmp_path / "a=b"


def test_the_environment_wins_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_WORKERS", "5")
    assert settings.workers() == 5


@pytest.mark.parametrize("name", ["settings", "./settings", "/no/such/file", "~/settings"])
def test_a_file_of_settings_needs_an_absolute_path(
    name: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIBRETTO_SETTINGS", name)
    with pytest.raises(InputError) as stopped:
        settings.workers()
    assert stopped.value.subject == "LIBRETTO_SETTINGS"
    assert stopped.value.hint


@pytest.mark.parametrize(
    ("name", "root"),
    [("LIBRETTO_WORK", settings.work_root), ("LIBRETTO_MODELS", settings.models_root)],
)
def test_a_relative_folder_stops(name: str, root, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queued experiments run in copies of the workspace, where it would be another folder."""
    monkeypatch.setenv(name, "some/cache")
    with pytest.raises(InputError) as stopped:
        root()
    assert stopped.value.subject == name
    assert stopped.value.hint
    monkeypatch.setenv(name, "~/cache")
    assert root() == Path.home() / "cache"


def test_the_work_cache_is_in_the_cache_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert settings.work_root().parent == tmp_path
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert settings.work_root().is_relative_to(tmp_path / "home")


def test_the_cache_of_the_user_is_an_absolute_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "~/caches")
    assert settings.work_root().parent == Path.home() / "caches"
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")
    with refused("XDG_CACHE_HOME", "LIBRETTO_WORK"):
        settings.work_root()
    monkeypatch.setenv("LIBRETTO_WORK", "~/work")
    assert settings.work_root() == Path.home() / "work"


def test_the_work_cache_depends_on_its_own_setting_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path))
    monkeypatch.setenv("LIBRETTO_NODES", "-1")
    monkeypatch.setenv("LIBRETTO_MEETING", "host:29500")
    monkeypatch.setenv("LIBRETTO_SETTINGS", "no file")
    assert settings.work_root() == tmp_path


def test_the_size_of_the_work_cache_is_in_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_WORK_GB", "0.5")
    assert settings.work_bytes() == 500_000_000


def test_a_data_root_that_is_not_set_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIBRETTO_ROOT_CALL_CENTRE", raising=False)
    with pytest.raises(InputError, match="LIBRETTO_ROOT_CALL_CENTRE") as stopped:
        roots.data_root("call-centre")
    assert stopped.value.subject == "call-centre"


def test_a_data_root_that_is_no_folder_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_ROOT_CALLS", str(tmp_path / "missing"))
    for _ in range(2):
        with pytest.raises(InputError, match=r"LIBRETTO_ROOT_CALLS=.*missing") as stopped:
            roots.data_root("calls")
        assert stopped.value.subject == "calls"
        assert stopped.value.hint
        (tmp_path / "missing").write_text("a file")


@pytest.mark.parametrize("address", ["s3://", "s3:///", "s3:///prefix"])
def test_an_address_needs_a_bucket(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_ROOT_CALLS", address)
    with refused("calls", "LIBRETTO_ROOT_CALLS"):
        roots.data_root("calls")
    with refused(address):
        as_path(address)
    monkeypatch.setenv("LIBRETTO_STORE", address)
    with refused("LIBRETTO_STORE"):
        settings.store_url()
    monkeypatch.setenv("LIBRETTO_STORE", "s3://bucket/")
    assert settings.store_url() == "s3://bucket"


def test_a_data_root_may_be_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("LIBRETTO_ROOT_CALLS", str(tmp_path / "link"))
    assert roots.data_root("calls") == (tmp_path / "real").resolve()


def test_a_missing_folder_of_models_names_its_variable() -> None:
    with pytest.raises(InputError) as stopped:
        settings.models_root()
    assert stopped.value.subject == "LIBRETTO_MODELS"
    assert stopped.value.hint


NUMBERS = ("WORK_GB", "READ_AHEAD_MB", "S3_TRIES", "S3_TIMEOUT", "WORKERS", "GPUS", "NODES")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["-1", "many", "nan"])
def test_every_number_has_a_range(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"LIBRETTO_{name}", value)
    with pytest.raises(InputError) as stopped:
        settings.read_settings()
    assert stopped.value.subject == f"LIBRETTO_{name}"
    assert stopped.value.hint


def test_all_numbers_are_tested() -> None:
    values = vars(settings.RuntimeSettings())
    numbers = {name.upper() for name, value in values.items() if type(value) in (int, float)}
    assert numbers | {"WORKERS", "GPUS"} == set(NUMBERS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FANOUT", "rai"),
        ("ENGINE", "dpp"),
        ("STORE", "/a/folder"),
        ("GPUS", "1.5"),
        ("OPENSLR", "file:///a/folder"),
    ],
)
def test_a_wrong_value_names_its_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"LIBRETTO_{name}", value)
    with pytest.raises(InputError) as stopped:
        settings.read_settings()
    assert stopped.value.subject == f"LIBRETTO_{name}"


def test_an_old_name_stops_and_names_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_MEETING", "host:29500")
    with pytest.raises(InputError) as stopped:
        settings.read_settings()
    assert stopped.value.subject == "LIBRETTO_MEETING"
    assert "LIBRETTO_RENDEZVOUS" in stopped.value.hint


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_WORK_GB", "")
    assert settings.work_bytes() == 50_000_000_000


def test_an_empty_value_in_the_file_is_not_set(file: Path) -> None:
    file.write_text("LIBRETTO_WORK_GB=\nLIBRETTO_WORK =  \nLIBRETTO_WORKERS=3\n")
    assert settings.read_settings() == settings.RuntimeSettings(workers=3)


def test_several_machines_need_an_engine_where_they_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_NODES", "2")
    assert settings.workers() >= 1
    with refused("LIBRETTO_NODES", "LIBRETTO_ENGINE"):
        world_size.engine()
    monkeypatch.setenv("LIBRETTO_ENGINE", "ddp")
    monkeypatch.setenv("LIBRETTO_RENDEZVOUS", "host:29500")
    assert world_size.engine() == world_size.Engine("ddp", 2, "host:29500")


def test_there_is_always_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.workers() >= 1
    monkeypatch.setenv("LIBRETTO_WORKERS", "0")
    assert settings.workers() == 1


@pytest.mark.parametrize(
    ("has_gpu", "setting", "device"),
    [(1, "", "cuda"), (0, "", "cpu"), (1, "cpu", "cpu"), (1, "cuda:1", "cuda:1")],
)
def test_the_device_is_that_of_the_setting_or_the_best(
    has_gpu: int, setting: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "GPU_DRIVERS", (tmp_path,))
    monkeypatch.setitem(
        sys.modules,
        "torch",
        SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: bool(has_gpu))),
    )
    monkeypatch.setenv("LIBRETTO_DEVICE", setting)
    assert settings.device() == device


def test_without_a_driver_there_is_no_gpu_and_torch_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "GPU_DRIVERS", (tmp_path / "none",))
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setenv("LIBRETTO_DEVICE", "")
    assert settings.device() == "cpu"
