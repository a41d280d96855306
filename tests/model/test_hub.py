"""Checkpoints of a hub: fetched once, whole, checked and pinned; and what stops says
the way out.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants, file_download

from components.config import catalogue
from components.config.errors import InputError, TransientError
from components.encoder import build
from components.model.encoders.encoder import SpeechEncoder
from components.model.folders import hub as client
from components.model.folders.linked_checkpoint import open_checkpoint
from components.model.folders.pins import select_files
from components.model.llms.causal import load_llm
from components.runtime import unit_cache as work
from components.runtime.artifact import recorded_digests
from components.runtime.hashing import folder_digests
from libretto.commands import run_command
from tests import world as tones
from tests.checkpoints import save_encoder, save_llm
from tests.conftest import REPOSITORY
from tests.errors import refused
from tests.model.hub_server import REVISION, Hub, etag, serving

SECRET = "hf_neverToBeSeenAnywhere"
ENCODER, LLM = "acme/parakeet-tiny", "acme/llama-tiny"


@pytest.fixture
def hub(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with an encoder and an LLM, to which the catalogue points; a HF cache of one's own."""
    for name in (
        "HF_TOKEN",
        "HF_ENDPOINT",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HUB_OFFLINE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with serving() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            served.address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf/hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf/token"))
        monkeypatch.setattr(
            constants, "DOWNLOAD_CHUNK_SIZE", 4096
        )  # what is lost of a cut connection is less than a chunk
        monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
        served.repositories = {
            ENCODER: save_encoder(tmp_path / "remote/encoder"),
            LLM: save_llm(tmp_path / "remote/llm"),
        }
        for kind, repo in (("encoder", ENCODER), ("llm", LLM)):
            folder = served.repositories[repo]
            (folder / "inputs.json").unlink()
            pinned(kind, repo=repo, revision=REVISION, files=sorted(os.listdir(folder)))
            (folder / "modeling.py").write_text("raise SystemExit")
            (folder / "README.md").write_text("not listed")
        yield served


def pinned(kind: str, **changed: Any) -> None:
    """Changes the source of the catalogue entry in use."""
    path = Path(f"catalogue/{kind}.yaml")
    data = yaml.safe_load(path.read_text())
    data["tiny"]["source"] = {
        key: value
        for key, value in {**data["tiny"]["source"], "kind": "hub", **changed}.items()
        if key != "folder"
    }
    path.write_text(yaml.safe_dump(data))


def storage(repo: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def nothing_kept(digest: str) -> bool:
    """Whether neither the HF cache nor the work cache holds a file of the encoder as whole."""
    return not (storage(ENCODER) / "blobs" / digest).exists() and not list(
        work.work_root().glob("encoder/*/*/unit.json")
    )


def test_an_encoder_is_fetched_whole_and_linked(hub: Hub, tmp_path: Path) -> None:
    tones.run("encoder")
    source, names = hub.repositories[ENCODER], set(catalogue.encoder("tiny").source.files)
    assert {path.name for path in open_checkpoint(tones.ENCODER).iterdir()} == names | {
        "inputs.json"
    }
    assert all(
        (open_checkpoint(tones.ENCODER) / name).read_bytes() == (source / name).read_bytes()
        for name in names
    )
    assert recorded_digests(tones.ENCODER).keys() == names
    there, here = SpeechEncoder(source), SpeechEncoder(open_checkpoint(tones.ENCODER))
    sound = tones.tone("amber birch", 1)
    assert torch.equal(there([sound])[0], here([sound])[0])
    assert here.has_ctc and there.decode_ctc(there([sound])) == here.decode_ctc(here([sound]))
    cached = storage(ENCODER) / "snapshots" / REVISION / "model.safetensors"
    assert cached.resolve().name == etag(source / "model.safetensors")
    assert cached.resolve().samefile(open_checkpoint(tones.ENCODER) / "model.safetensors"), (
        "one copy of the weights on the disk"
    )
    assert not {each.path.rpartition("/")[2] for each in hub.requests} & {
        "modeling.py",
        "README.md",
    }


def test_a_pulled_clone_fetches_what_it_lacks_and_trains_nothing(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An encoder of a hub joined with one that was trained here, and an LLM of a hub; the work
    cache and the HF cache are empty.
    """
    Path("dvc.yaml").touch()
    own = save_encoder(tmp_path / "own", "parakeet", seed=2)
    (own / "inputs.json").unlink()

    def trained_encoder(name: str, source: object) -> tuple[Path, dict[str, Any]]:
        def copy(folder: Path) -> None:
            shutil.copytree(own, folder, dirs_exist_ok=True)

        return work.cached_unit("encoder", {"name": name}, copy, code="tests.errors"), {}

    monkeypatch.setattr(build, "_trained_encoder", trained_encoder)
    catalogue_entries = yaml.safe_load((REPOSITORY / "catalogue/encoder.yaml").read_text())
    parts = {
        "speech": yaml.safe_load(Path("catalogue/encoder.yaml").read_text())["tiny"]["source"],
        "own": catalogue_entries["ctc-tiny"]["source"],
    }
    tones.change("catalogue/encoder.yaml", {"tiny.source": {"kind": "joined", "parts": parts}})
    for stage in ("encoder", "llm"):
        tones.run(stage)
    complete = folder_digests(open_checkpoint(tones.ENCODER))
    before = [folder_digests(folder) for folder in (tones.ENCODER, tones.LLM)]
    assert (tones.ENCODER / "own/model.safetensors").is_file()
    for folder in (Path("models/linked"), work.work_root(), tmp_path / "hf"):
        shutil.rmtree(folder)
    monkeypatch.setattr(build, "_trained_encoder", None)
    assert run_command(["fetch-models"]) == 0
    assert "models/linked/llm" in capsys.readouterr().out
    assert [folder_digests(folder) for folder in (tones.ENCODER, tones.LLM)] == before
    num_requests = len(hub.requests)
    hub.status = 503  # offline from here
    assert folder_digests(open_checkpoint(tones.ENCODER)) == complete
    assert load_llm(open_checkpoint(tones.LLM), "float32", "cpu")
    assert run_command(["fetch-models"]) == 0 and len(hub.requests) == num_requests


def test_an_llm_is_fetched_whole(hub: Hub) -> None:
    tones.run("llm")
    (there, units), (here, same) = (
        load_llm(folder, "float32", "cpu")
        for folder in (hub.repositories[LLM], open_checkpoint(tones.LLM))
    )
    assert all(
        torch.equal(one, other)
        for one, other in zip(there.parameters(), here.parameters(), strict=True)
    )
    assert units("amber birch").input_ids == same("amber birch").input_ids
    assert not list(tones.LLM.glob("*.py"))


def test_what_is_there_is_not_asked_for_again(hub: Hub) -> None:
    """Neither where the unit is finished, nor where only the HF cache holds the files, with or
    without a network.
    """
    tones.run("encoder")
    files = folder_digests(tones.ENCODER)
    asked = len(hub.requests)
    assert asked
    tones.run("encoder")
    shutil.rmtree(work.work_root())
    tones.run("encoder")
    shutil.rmtree(storage(ENCODER))
    tones.run("encoder")
    assert len(hub.requests) == asked
    assert folder_digests(tones.ENCODER) == files


def test_another_revision_or_list_of_files_is_another_unit(hub: Hub) -> None:
    tones.run("llm")
    (hub.repositories[LLM] / "NOTICE").write_text("of the authors")
    pinned("llm", files=[*catalogue.llm("tiny").source.files, "NOTICE"])
    tones.run("llm")
    assert (open_checkpoint(tones.LLM) / "NOTICE").is_file()
    assert len(hub.bodies("model.safetensors")) == 1, "the weights are in the cache already"
    pinned("llm", revision="f" * 40)
    with refused(None, "llm 'tiny'", LLM, "f" * 40, "components.llm pin tiny"):
        tones.run("llm")


def test_a_cut_connection_is_continued(hub: Hub) -> None:
    hub.cuts, hub.cut_after = 2, 50_000
    tones.run("encoder")
    ranges = [each.range for each in hub.bodies("model.safetensors")]
    starts = [int(each.removeprefix("bytes=").removesuffix("-") or 0) for each in ranges]
    assert len(starts) == 3 and 0 == starts[0] < starts[1] < starts[2]
    assert (open_checkpoint(tones.ENCODER) / "model.safetensors").read_bytes() == (
        hub.repositories[ENCODER] / "model.safetensors"
    ).read_bytes()


def test_a_later_run_goes_on_where_a_download_stopped(hub: Hub) -> None:
    hub.cuts, hub.cut_after, hub.down_after = 1, 50_000, True
    with refused(None, "encoder 'tiny'", "503", "model.safetensors", error=TransientError):
        tones.run("encoder")
    assert nothing_kept(etag(hub.repositories[ENCODER] / "model.safetensors"))
    hub.status = 0
    tones.run("encoder")
    bodies = [(each.range, each.status) for each in hub.bodies("model.safetensors")]
    assert bodies == [("", 200), ("bytes=49152-", 206)], "12 chunks had arrived"
    assert (open_checkpoint(tones.ENCODER) / "model.safetensors").read_bytes() == (
        hub.repositories[ENCODER] / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_bytes_of_another_hash_stop_and_are_removed(file: str, hub: Hub) -> None:
    """Large files are named by SHA-256, small ones by git's hash."""
    hub.damaged = {file}
    with refused(None, "encoder 'tiny'", file, error=TransientError):
        tones.run("encoder")
    blob = storage(ENCODER) / "blobs" / etag(hub.repositories[ENCODER] / file)
    assert not blob.exists() and not blob.with_name(blob.name + ".incomplete").exists()
    assert not tones.ENCODER.exists()
    hub.damaged = set()
    tones.run("encoder")
    assert (open_checkpoint(tones.ENCODER) / file).read_bytes() == (
        hub.repositories[ENCODER] / file
    ).read_bytes()


def test_a_cache_that_was_damaged_is_fetched_anew(hub: Hub) -> None:
    tones.run("encoder")
    shutil.rmtree(work.work_root())
    shutil.rmtree(tones.ENCODER)
    blob = (storage(ENCODER) / "snapshots" / REVISION / "model.safetensors").resolve()
    data = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(data[:-1] + b"?")
    with refused(None, "model.safetensors", error=TransientError):
        tones.run("encoder")
    tones.run("encoder")
    assert (open_checkpoint(tones.ENCODER) / "model.safetensors").read_bytes() == data


@pytest.mark.parametrize("token", ["", SECRET])
def test_a_gated_repository_says_where_its_terms_are(
    token: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.gated = {LLM}
    with pytest.raises(InputError) as stopped:
        tones.run("llm")
    assert f"llm 'tiny': {LLM} is gated. Accept its terms at {hub.address}/{LLM}" in str(
        stopped.value
    )
    assert "HF_TOKEN" in str(stopped.value) and "hf auth login" in str(stopped.value)
    assert SECRET not in str(stopped.value)


def test_a_token_goes_to_the_hub_alone(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    tones.run("encoder")
    assert {each.authorization for each in hub.requests if not each.path.startswith("/cdn/")} == {
        f"Bearer {SECRET}"
    }
    assert {each.authorization for each in hub.requests if each.path.startswith("/cdn/")} == {""}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    assert SECRET not in "".join(capfd.readouterr())


def test_what_the_hub_does_not_have_is_named(hub: Hub) -> None:
    pinned("encoder", files=["config.json", "model.safetensors", "tokeniser_config.json"])
    with refused(None, "'tokeniser_config.json'", "'tokenizer_config.json'"):
        tones.run("encoder")
    pinned("encoder", repo="acme/parakeet-tny")
    with refused(None, "acme/parakeet-tny"):
        tones.run("encoder")


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (401, InputError, "HF_TOKEN"),
        (403, InputError, "terms"),
        (503, TransientError, "503"),
        (429, TransientError, "429"),
    ],
)
def test_what_the_hub_answers_tells_whether_to_try_again(
    status: int, kind: type, says: str, hub: Hub
) -> None:
    hub.status = status
    with refused(None, says, error=kind):
        tones.run("encoder")


def test_a_mirror_of_another_commit_is_refused(hub: Hub) -> None:
    hub.commit = "e" * 40
    with refused():
        tones.run("encoder")
    assert not [each for each in hub.requests if each.method == "GET"]


def test_a_file_beyond_plain_http_is_left_to_the_hubs_own_command(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "MAX_HTTP_DOWNLOAD_SIZE", 100_000)
    command = f"hf download {ENCODER} --revision {REVISION} config.json "
    with refused(None, "model.safetensors", command):
        tones.run("encoder")


def three_ways(message: str) -> bool:
    return all(
        name in message
        for name in (
            "HF_HOME",
            "LIBRETTO_MODELS",
            "HF_ENDPOINT",
            "hf download",
            constants.HF_HUB_CACHE,
        )
    )


def test_who_is_offline_is_told_three_ways_out(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed, socket.socket() as silent:
        closed.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(client, "TIMEOUT_S", 0.3)
        for port in (closed.getsockname()[1], silent.getsockname()[1]):
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
            monkeypatch.setattr(
                constants,
                "HUGGINGFACE_CO_URL_TEMPLATE",
                f"http://127.0.0.1:{port}" + "/{repo_id}/resolve/{revision}/{filename}",
            )
            with pytest.raises(TransientError) as stopped:
                tones.run("encoder")
            assert f":{port}) does not answer" in str(stopped.value)
            assert three_ways(str(stopped.value))


def test_offline_by_setting_is_told_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE") as stopped:
        tones.run("encoder")
    assert three_ways(str(stopped.value))
    assert not hub.requests


def test_a_download_that_does_not_fit_says_so_before_it_begins(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(work.shutil, "disk_usage", lambda path: usage._replace(free=1234))
    with refused(None, "1,234"):
        tones.run("encoder")
    assert not [each for each in hub.requests if each.method == "GET"]


def test_a_disk_that_fills_up_keeps_nothing_half_written_as_whole(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = client._ProgressFile.write

    def full(self: Any, data: bytes) -> int:
        if self.tell() > 30_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return known(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(client._ProgressFile, "write", full)
        with refused():
            tones.run("encoder")
    assert nothing_kept(etag(hub.repositories[ENCODER] / "model.safetensors"))
    tones.run("encoder")
    SpeechEncoder(open_checkpoint(tones.ENCODER))


def test_a_cache_of_somebody_else_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path, *_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(client, "_ProgressFile", deny)
    with refused(None, "hf/hub", "HF_HOME"):
        tones.run("encoder")


@pytest.mark.parametrize(
    "file",
    [
        "modeling.py",
        "config.json.py",
        "weights.pkl",
        "flax_model.msgpack",
        "tf_model.h5",
        "optimizer.bin",
        "../config.json",
        "a/config.json",
    ],
)
def test_what_could_run_code_is_never_listed(file: str, hub: Hub) -> None:
    pinned("encoder", files=["config.json", "model.safetensors", file])
    with pytest.raises(InputError, match=r"encoder\.yaml: tiny") as stopped:
        catalogue.encoder("tiny")
    assert stopped.value.subject == "source.files"


@pytest.mark.parametrize(
    "changed",
    [
        {"revision": "main"},
        {"revision": REVISION[:12]},
        {"repo": "parakeet"},
        {"repo": "../parakeet"},
        {"repo": ""},
        {"files": ["config.json", "model.safetensors", "pytorch_model.bin"]},
    ],
)
def test_a_hub_source_that_is_wrong_stops_before_the_network(changed: dict, hub: Hub) -> None:
    pinned("encoder", **changed)
    with pytest.raises(InputError, match=r"encoder\.yaml: tiny") as stopped:
        catalogue.encoder("tiny")
    assert stopped.value.subject == f"source.{next(iter(changed))}"
    assert stopped.value.hint
    assert not hub.requests


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """A process that reads its environment anew."""
    given = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "NO_PROXY": "127.0.0.1,localhost",
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, env=given
    )


def test_a_process_honours_the_environment(hub: Hub, tmp_path: Path) -> None:
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": SECRET}
    done = python("components.encoder", "--encoder", "tiny", **settings)
    assert done.returncode == 0, done.stderr
    assert (
        tmp_path / "home/hub/models--acme--parakeet-tiny/snapshots" / REVISION / "model.safetensors"
    ).is_file()
    assert {each.authorization for each in hub.requests} == {f"Bearer {SECRET}", ""}
    assert not [each.agent for each in hub.requests if "torch" in each.agent], "telemetry is off"
    hub.gated = {LLM}
    stopped = python("components.llm", "--llm", "tiny", **settings)
    assert stopped.returncode == 2
    assert "is gated" in stopped.stderr
    assert SECRET not in done.stdout + done.stderr + stopped.stdout + stopped.stderr
    assert not [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    ]


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("encoder", {"encoder_config": {"hidden_size": 64}}), ("llm", {"hidden_size": 64})],
)
def test_a_checkpoint_of_another_width_than_its_entry_says_stops_the_stage(
    kind: str, shape: dict, hub: Hub
) -> None:
    pinned(kind, shape=shape)
    with refused(None, f"{kind} 'tiny'", "hidden_size", "64", "32"):
        tones.run(kind)
    assert not hub.bodies("model.safetensors"), "said before the weights are fetched"


@pytest.mark.parametrize("forbidden", [True, False])
def test_a_process_without_a_network_names_the_ways_out(
    forbidden: bool, hub: Hub, tmp_path: Path
) -> None:
    """Nothing listens at the endpoint; HF_HUB_OFFLINE forbids to try."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        home = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": str(int(forbidden)),
        }
        stopped = python("components.llm", "--llm", "tiny", **home)
    assert stopped.returncode == (2 if forbidden else 75)
    said = stopped.stderr.strip().splitlines()[-1]
    assert said.startswith(
        f"llm: llm 'tiny': config.json of {LLM} is not in the cache {tmp_path / 'home/hub'}, and "
    )
    assert ("HF_HUB_OFFLINE" if forbidden else endpoint) in said
    for way in (
        f"hf download {LLM} --revision {REVISION}",
        "HF_HOME",
        "LIBRETTO_MODELS",
        "kind: folder",
        "HF_ENDPOINT",
    ):
        assert way in said
    assert "Traceback" not in stopped.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_ends_the_process_with_the_entry_and_the_way_out(
    hub: Hub, tmp_path: Path
) -> None:
    blob = etag(hub.repositories[ENCODER] / "model.safetensors")
    part = tmp_path / "home/hub/models--acme--parakeet-tiny/blobs" / f"{blob}.incomplete"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    stopped = python("components.encoder", "--encoder", "tiny", **settings)
    assert stopped.returncode == 2
    said = stopped.stderr.strip().splitlines()[-1]
    assert said.startswith(f"encoder: encoder 'tiny': {tmp_path / 'home/hub'}: the disk is full: ")
    assert "Traceback" not in stopped.stderr
    assert not tones.ENCODER.exists()
    part.unlink()
    assert python("components.encoder", "--encoder", "tiny", **settings).returncode == 0


def test_an_entry_without_a_revision_is_pinned_by_a_command(hub: Hub, tmp_path: Path) -> None:
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    files = catalogue.encoder("tiny").source.files
    pinned("encoder", revision="", files=[])
    stopped = python("components.encoder", **settings)
    assert stopped.returncode == 2
    assert (
        "is not pinned: no revision and no files in catalogue/encoder.yaml. 'python -m "
        "components.encoder pin tiny'"
    ) in stopped.stderr
    assert not hub.requests
    printed = python("components.encoder", "pin", "tiny", **settings)
    assert printed.returncode == 0, printed.stderr
    assert yaml.safe_load(printed.stdout) == {"revision": REVISION, "files": files}
    pinned("encoder", **yaml.safe_load(printed.stdout))
    assert python("components.encoder", **settings).returncode == 0
    unknown = python("components.encoder", "pin", "tny", **settings)
    assert unknown.returncode == 2 and "Did you mean 'tiny'?" in unknown.stderr


def test_pinning_prefers_safetensors() -> None:
    listed = [
        "README.md",
        "config.json",
        "pytorch_model.bin",
        "model.safetensors",
        "tf_model.h5",
        "vocab.json",
        "a/b.json",
    ]
    assert select_files(listed) == ["config.json", "model.safetensors", "vocab.json"]
    assert select_files([file for file in listed if file != "model.safetensors"]) == [
        "config.json",
        "pytorch_model.bin",
        "vocab.json",
    ]


def test_torch_weights_of_a_hub_are_converted(hub: Hub) -> None:
    folder = hub.repositories[LLM]
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    files = [file for file in catalogue.llm("tiny").source.files if file != "model.safetensors"]
    pinned("llm", files=[*files, "pytorch_model.bin"])
    tones.run("llm")
    assert {path.name for path in open_checkpoint(tones.LLM).iterdir()} == {
        *files,
        "model.safetensors",
        "inputs.json",
    }
    converted = load_file(open_checkpoint(tones.LLM) / "model.safetensors")
    assert converted.keys() == tensors.keys() and all(
        torch.equal(converted[name], tensors[name]) for name in tensors
    )
    load_llm(open_checkpoint(tones.LLM), "float32", "cpu")
    assert json.loads((tones.LLM / "inputs.json").read_text())["parameters"]["revision"] == REVISION
