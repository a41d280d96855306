"""``python -m components.plan`` as a user runs it: its figures, what it refuses, and that it stops
what will not do.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from components.config import catalogue
from components.config.errors import InputError
from components.config.params import overridden
from components.plan.__main__ import parsed
from components.plan.load import Load, gpu_of
from components.plan.networks import networks
from components.plan.run import Memory, Plan, check, check_networks, plan_of
from components.plan.stage_status import up_to_date_stages
from tests.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def at_home(work: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("LIBRETTO_DEVICE", "cpu")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "components.plan", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ},
    )


def planned(gpus: tuple[str, ...] = (), **overrides: object) -> Plan:
    return plan_of(
        overridden(
            {key.replace("__", "."): value for key, value in overrides.items()}, "overrides"
        ),
        gpus,
    )


PAPER = {
    "corpus": "librispeech",
    "encoder": "hubert-large-ls960-ft",
    "projector": "linear",
    "llm": "vicuna-7b",
}


def test_the_embedded_run_will_do_and_says_what_it_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree("catalogue", tmp_path / "nothing done yet/catalogue")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(name, tmp_path / "nothing done yet")
    monkeypatch.chdir(tmp_path / "nothing done yet")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], check=True)
    done = run()
    assert done.returncode == 0, done.stderr
    for word in (
        "spoken-train",
        "projector",
        "LoRA",
        "estimates",
        "h200",
        "ctc-tiny is trained here",
    ):
        assert word in done.stdout


def test_the_features_of_960_hours_are_counted_to_the_gigabyte() -> None:
    plan = planned(**PAPER)
    train = next(each for each in plan.written if each.what == "features, train")
    tars = 281_241 * 2_000
    assert round((train.bytes - tars) / 1e9) == 354  # 960.9 h × 3,600 × 50 frames × 1,024 × 2 bytes
    live = planned(**PAPER, features__mode="live")
    assert not any(each.what.startswith("features") for each in live.written)


def test_downloads_are_named_with_their_sizes() -> None:
    plan = planned(**PAPER)
    sizes = {each.what: each.bytes for each in plan.downloads}
    assert sizes["train-other-500"] == 30_593_501_606
    assert sizes["llm vicuna-7b"] == pytest.approx(
        13.48e9, rel=0.01
    )  # 6,738,415,616 parameters, two bytes each
    assert sum(sizes.values()) > 70e9


def test_what_lies_in_the_data_root_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_ROOT_LIBRISPEECH", str(tmp_path))
    (tmp_path / "train-clean-360").mkdir()
    found = {each.what for each in planned(**PAPER).downloads}
    assert "train-clean-360" not in found
    assert "train-clean-100" in found


def test_weights_that_are_linked_take_no_room_of_their_own() -> None:
    places = {each.what: each.places for each in planned(**{**PAPER, "llm": "phi-2"}).written}
    linked, converted = (
        places["llm phi-2, as safetensors"],
        places["encoder hubert-large-ls960-ft, as safetensors"],
    )
    assert len(linked) == len(converted) - 1  # cache of the hub and work cache lie on one disk here
    assert "a data root that is not set" in run("-S", "corpus=librispeech-100").stdout


def test_a_disk_that_is_too_small_stops_before_the_run() -> None:
    done = run(
        "-S",
        "corpus=mls",
        "-S",
        "encoder=hubert-xlarge",
        "-S",
        "projector=linear",
        "-S",
        "llm=vicuna-7b",
        "--gpu",
        "h200",
    )
    assert done.returncode == 2  # 52,000 h at 1,280 × 50 Hz: 23 TB
    assert "too small" in done.stderr
    assert "features, train" in done.stdout


def test_a_memory_that_is_too_small_stops_before_the_run() -> None:
    small = planned(("t4",), encoder="whisper-tiny", projector="linear", llm="vicuna-13b")
    with pytest.raises(
        InputError,
        match=(
            r"stage '(train|decode)' needs about .* GB of memory, t4 has 16\.0 "
            r"GB.*\1\.batch_seconds"
        ),
    ):
        check(small)
    check(planned(("t4", "h200"), encoder="whisper-tiny", projector="linear", llm="vicuna-13b"))


def test_memory_counts_each_process_of_this_machine() -> None:
    plan = planned()
    peak = max(load.memory for load in plan.loads)
    object.__setattr__(plan, "memory", [Memory("this machine", 1.5 * peak, 1)])
    check(plan)
    object.__setattr__(plan, "memory", [Memory("this machine", 1.5 * peak, 2)])
    with pytest.raises(InputError, match="this machine"):
        check(plan)


def test_more_steps_a_larger_llm_and_a_slower_card_take_longer() -> None:
    h200, t4 = gpu_of("h200"), gpu_of("t4")

    def train(**overrides: object) -> float:
        load = next(
            each for each in planned(**{**PAPER, **overrides}).loads if each.stage == "train"
        )
        hours = load.hours(h200)
        assert hours is not None
        return hours

    assert train(train__curriculum__0__steps=50_000) > 2 * train()
    assert train(llm="vicuna-13b") > 1.5 * train()
    bf16 = next(each for each in planned(**PAPER).loads if each.stage == "train")
    assert bf16.hours(t4) is None  # it has no bfloat16


def test_whisper_computes_whole_windows_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def operations() -> float:
        return next(
            load.operations
            for load in planned(**{**PAPER, "encoder": "whisper-small"}).loads
            if load.stage == "features"
        )

    padded, entry = operations(), catalogue.encoder("whisper-small")
    monkeypatch.setattr(
        catalogue,
        "encoder",
        lambda name: replace(entry, numerics=replace(entry.numerics, padding="none")),
    )
    assert padded > 2 * operations()  # utterances of 12 s in windows of 30 s


def test_the_decoder_of_a_whole_whisper_writes_beside_the_llm() -> None:
    """In float32, windows of 30 s one after another; of Qwen-Audio no decoder is kept."""

    def decode(encoder: str) -> Load:
        return next(
            load
            for load in planned(**{**PAPER, "encoder": encoder}).loads
            if load.stage == "decode"
        )

    whole, half = decode("whisper-large-v2"), decode("qwen-audio")
    nets = networks(overridden({"encoder": "whisper-large-v2"}, "overrides")).encoder
    assert 1.5e9 < nets.parameters + nets.writer < 1.6e9, "Radford et al. 2022, table 1: 1,550 M"
    seconds, windows = (
        15.8 * 3600,
        8_423 + 200,
    )  # dev-other, test-clean, test-other, and clips; hardly any is longer than a window
    encoded = 2 * nets.parameters * 50 * 30 * windows
    assert whole.computed["float32"] - half.computed["float32"] == pytest.approx(
        encoded + 2 * nets.writer * 3.7 * seconds, rel=0.03
    )
    assert whole.memory - half.memory == 4 * (nets.parameters + nets.writer)


def test_training_on_live_features_computes_whole_windows_too() -> None:
    def train(mode: str) -> Load:
        found = planned(**{**PAPER, "encoder": "whisper-small", "features__mode": mode})
        return next(load for load in found.loads if load.stage == "train")

    live, cached = train("live"), train("cached")
    heard = (500 + 650) * 50  # seconds of audio that the steps take in
    alone = (
        2
        * networks(overridden({"encoder": "whisper-small"}, "overrides")).encoder.parameters
        * 50
        * heard
    )
    assert live.operations - cached.operations > 2 * alone  # utterances of 12 s in windows of 30 s
    assert live.memory > cached.memory


def test_what_is_tuned_costs_time_and_memory() -> None:
    def train(*tune: str) -> Load:
        tuned = {
            "features__mode": "live",
            "train__curriculum__0__tune": list(tune),
            "train__curriculum__1__tune": ["projector"],
        }
        return next(each for each in planned(**{**PAPER, **tuned}).loads if each.stage == "train")

    frozen = train("projector")
    for one, other in (
        (frozen, train("encoder-lora")),
        (train("encoder-lora"), train("encoder")),
        (frozen, train("llm")),
    ):
        assert one.operations < other.operations
        assert one.memory < other.memory
    assert (frozen.dtype, train("llm").dtype) == ("bfloat16", "float32")


def test_what_stands_costs_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = ("train", "dev", "test", "nonspeech-train", "nonspeech-test")
    monkeypatch.setattr(
        "components.plan.run.up_to_date_stages",
        lambda params: {"llm": 1, **{f"features@{role}": 1 for role in roles}},
    )
    found = planned(**PAPER)
    assert [load.stage for load in found.loads] == ["train", "decode"]
    assert not any(each.what.startswith(("features", "llm")) for each in found.written)
    assert [
        each.what for each in found.downloads if "hubert" in each.what or "vicuna" in each.what
    ] == ["encoder hubert-large-ls960-ft"]
    everything = {
        name: 1
        for name in ("encoder", "llm", "train", "decode", *(f"features@{role}" for role in roles))
    }
    monkeypatch.setattr("components.plan.run.up_to_date_stages", lambda params: everything)
    done = planned(**{**PAPER, "llm": "vicuna-13b"})
    assert done.loads == []
    object.__setattr__(done, "rooms", [])
    check(done)


def test_a_plan_makes_no_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_ROOT_LIBRISPEECH", str(tmp_path / "mistyped"))
    found = {each.what: each.places for each in planned(**PAPER).written}
    assert found["train-clean-100"] == (tmp_path / "mistyped",)
    assert not (tmp_path / "mistyped").exists()


def test_what_stands_by_the_lock_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("catalogue", "dvc.yaml", "dvc.lock", "params.yaml"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    assert up_to_date_stages(overridden({}, "overrides")) == {}  # recorded, but not there
    monkeypatch.setattr("components.plan.stage_status.LOCK", tmp_path / "empty.lock")
    (tmp_path / "empty.lock").write_text("schema: '2.0'\n")
    assert up_to_date_stages(overridden({}, "overrides")) == {}
    monkeypatch.setattr("components.plan.stage_status.LOCK", tmp_path / "dvc.lock")
    for path in ("data/corpus", "data/shards", "data/features"):
        for role in ("train", "dev", "test", "nonspeech-train", "nonspeech-test", "noise"):
            (tmp_path / path / role).mkdir(parents=True)
    for path in ("data/splits", "models/encoder", "models/llm"):
        (tmp_path / path).mkdir(parents=True)
    found = up_to_date_stages(overridden({}, "overrides"))
    assert found["features@train"] > 1e8
    assert "train" not in found  # its output is not there
    other = up_to_date_stages(overridden({"llm": "phi-tiny"}, "overrides"))
    assert "features@train" in other
    assert "llm" not in other
    changed = up_to_date_stages(overridden({"shards.utterances": 100}, "overrides"))
    assert "corpus@train" in changed
    assert not any(
        name.startswith(("shards", "features", "encoder")) for name in changed
    )  # what hangs on it falls too


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("llm=phi-3", r"phi-2"),
        ("lmm=phi-2", r"'lmm'.*llm"),
        ("train.lora.rnk=8", r"rnk.*rank"),
        ("llm", r"no key=value"),
        ("llm=phi-2,vicuna-7b", r"one by one"),
        ("train.lora.rank=many", r"train\.lora\.rank"),
    ],
)
def test_a_wrong_override_names_the_nearest_known(assignment: str, says: str) -> None:
    done = run("-S", assignment)
    assert done.returncode == 2
    assert re.search(says, done.stderr), done.stderr
    assert not done.stdout


def test_overrides_are_read_as_dvc_reads_them() -> None:
    assert parsed(["llm=phi-2", "train.lora.rank=8", "train.clip=1e-1", "a=[1,{b:x}]"]) == {
        "llm": "phi-2",
        "train.lora.rank": 8,
        "train.clip": 0.1,
        "a": [1, {"b": "x"}],
    }


def test_an_unknown_card_names_the_known() -> None:
    done = run("--gpu", "h2000")
    assert done.returncode == 2
    assert "h200" in done.stderr


def test_views_of_augmented_audio_are_counted() -> None:
    """Three views of which each is, on average over its speeds, (1/0.5 + 1/1) / 2 = 1.5 times as
    long; the other roles have one.
    """

    def features(**changed: object) -> tuple[dict[str, float], float]:
        found = planned(**PAPER, **changed)
        written = {
            each.what: each.bytes for each in found.written if each.what.startswith("features")
        }
        return written, next(load.operations for load in found.loads if load.stage == "features")

    before, operations = features()
    after, more = features(features__augment__views=3, features__augment__speed=[0.5, 1.0])
    for role in ("train", "nonspeech-train"):
        assert after[f"features, {role}"] == pytest.approx(
            4.5 * before[f"features, {role}"], rel=0.01
        )
    assert {what: size for what, size in after.items() if "train" not in what} == {
        what: size for what, size in before.items() if "train" not in what
    }
    assert more == pytest.approx(4.5 * operations, rel=0.05)  # dev and test are small


def test_noise_that_the_corpus_does_not_have_stops_the_plan() -> None:
    done = run("-S", "features.augment.noise.probability=0.5")
    assert done.returncode == 2
    assert "the corpus 'spoken' has no noise" in done.stderr


def test_more_ranks_than_micro_batches_stop_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_WORKERS", "3")
    planned()  # processes of this machine are no more than there are micro-batches
    monkeypatch.setenv("LIBRETTO_ENGINE", "fsdp")
    with pytest.raises(InputError, match=r"3 ranks would share the 2 micro-batches"):
        planned()


def test_ranks_that_share_the_llm_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_ENGINE", "fsdp")
    monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    assert "2 ranks (fsdp) train: each holds 1/2 of the LLM's layers" in " ".join(
        run().stdout.split()
    )


def test_ranks_matter_to_no_plan_without_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_ENGINE", "fsdp")
    monkeypatch.setenv("LIBRETTO_WORKERS", "3")  # more than micro-batches
    released = overridden(
        {
            "encoder": "wavlm-large",
            "projector": "slam-asr-wavlm-large-vicuna-7b",
            "llm": "vicuna-7b-released",
            "features.mode": "live",
        },
        "overrides",
    )
    assert plan_of(released).engine == ""


def test_what_the_networks_can_not_do_stops_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = overridden({"train.packing": True}, "overrides")
    found = networks(packed)
    check_networks(packed, found)
    with pytest.raises(
        InputError, match=r"llm 'llama-tiny' takes no positions.* Set train\.packing to false"
    ):
        check_networks(packed, replace(found, llm=replace(found.llm, packs=False)))
    compressed = overridden({"projector": "ctc-compressor"}, "overrides")
    check_networks(compressed, found)
    with pytest.raises(InputError, match=r"encoder 'ctc-tiny' has no CTC head"):
        check_networks(compressed, replace(found, encoder=replace(found.encoder, ctc=False)))
