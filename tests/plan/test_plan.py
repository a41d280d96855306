"""``python -m components.plan``: its figures, what it refuses, and that it stops a run that does
not fit. The machine is given as values: free disk, memory and cores of this one do not matter.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config import catalogue
from components.config.errors import InputError
from components.config.params import read_overridden_params
from components.plan.__main__ import main, parse_assignments
from components.plan.disk import DiskUse
from components.plan.load import StageLoad, read_gpu
from components.plan.machine import Disk, Machine, Memory
from components.plan.networks import read_networks
from components.plan.recipe import format_value
from components.plan.report import estimate_hours_here
from components.plan.run import (
    RunPlan,
    check_networks,
    check_plan,
    count_processes,
    plan_run,
)
from components.plan.stage_status import up_to_date_stages
from components.runtime.stage import check_names
from tests.conftest import REPOSITORY
from tests.errors import refused

Run = Callable[..., tuple[int, str, str]]  # arguments → exit code, output, errors
LARGE = Machine("large machine", 1e12, 2, (Path("/work"),), (Disk((Path("/"),), 1e15),))


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """The root of the repository, with no stage done."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("components.plan.run.up_to_date_stages", lambda params: {})


@pytest.fixture
def command(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs the command on a large machine; returns exit code, output and errors."""
    monkeypatch.setattr("components.plan.run.read_machine", lambda *folders: machine)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        return code, *capsys.readouterr()

    return run


def planned(gpus: tuple[str, ...] = (), machine: Machine = LARGE, **overrides: object) -> RunPlan:
    """The plan with some parameters changed, on a machine with room for everything."""
    values = {key.replace("__", "."): value for key, value in overrides.items()}
    return plan_run(read_overridden_params(values, "overrides"), gpus, machine)


def load_of(stage: str, plan: RunPlan) -> StageLoad:
    return next(load for load in plan.loads if load.stage == stage)


PAPER = {
    "corpus": "librispeech",
    "encoder": "hubert-large-ls960-ft",
    "projector": "linear",
    "llm": "vicuna-7b",
}


def test_the_default_fits_and_is_shown(
    command: Run,
) -> None:
    code, output, errors = command()
    assert (code, errors) == (0, "")
    for name in ("spoken-train", "projector", "LoRA", "h200", "ctc-tiny", "large machine"):
        assert name in output


def test_minutes_of_this_processor_are_near_those_of_the_embedded_run(
    command: Run, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cores took these seconds, least and most (docs/results/embedded.md). Cards are listed
    where the processor would take hours.
    """
    here = replace(machine, is_processor=True)
    monkeypatch.setattr("components.plan.run.read_machine", lambda *folders: here)
    plan = planned(machine=here)
    seconds = {
        load.stage: 3600 * estimate_hours_here(load, plan.memories[0]) for load in plan.loads
    }
    measured = {"encoder": (240, 369), "features": (56, 82), "train": (78, 107), "decode": (23, 50)}
    assert seconds.keys() == measured.keys()
    for stage, (least, most) in measured.items():
        assert least / 2 < seconds[stage] < 2 * most, stage
    many = planned(machine=replace(here, num_workers=64))  # a training has two micro-batches
    hours = {load.stage: estimate_hours_here(load, many.memories[0]) for load in many.loads}
    assert 3600 * hours["train"] == pytest.approx(seconds["train"])
    assert 3600 * hours["features"] == pytest.approx(seconds["features"] / 32)
    _, output, _ = command()
    assert f"{machine.name}: time" in output and "h200" not in output
    _, output, _ = command(*(f"-S{name}={value}" for name, value in PAPER.items()))
    assert f"{machine.name}: time" in output and "h200" in output


def test_the_command_reads_this_machine(tmp_path: Path) -> None:
    """Whether the run fits here or not: exit code 0 or 2."""
    done = subprocess.run(
        [sys.executable, "-m", "components.plan"], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode in (0, 2), done.stderr
    assert "spoken-train" in done.stdout


def test_the_features_of_960_hours_are_counted_to_the_gigabyte() -> None:
    plan = planned(**PAPER)
    train = next(use for use in plan.disk_uses if use.name == "features, train")
    tars = 281_241 * 2_000
    # 960.9 h × 3,600 × 50 frames × 1,024 × 2 bytes
    assert round((train.num_bytes - tars) / 1e9) == 354
    live = planned(**PAPER, features__mode="live")
    assert not any(use.name.startswith("features") for use in live.disk_uses)


def test_downloads_are_named_with_their_sizes() -> None:
    plan = planned(**PAPER)
    sizes = {download.name: download.num_bytes for download in plan.downloads}
    assert sizes["train-other-500"] == 30_593_501_606
    # 6,738,415,616 parameters, two bytes each
    assert sizes["llm vicuna-7b"] == pytest.approx(13.48e9, rel=0.01)
    assert sum(sizes.values()) > 70e9


def test_an_archive_whose_folder_is_in_the_data_root_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_ROOT_LIBRISPEECH", str(tmp_path))
    (tmp_path / "train-clean-360").mkdir()
    names = {download.name for download in planned(**PAPER).downloads}
    assert "train-clean-360" not in names
    assert "train-clean-100" in names


def test_weights_that_are_linked_take_up_no_space_again(machine: Machine) -> None:
    plan = planned(machine=machine, **{**PAPER, "llm": "phi-2"})
    folders = {use.name: use.folders for use in plan.disk_uses}
    # The cache of the hub and the work cache are on one disk here; a converted checkpoint is new.
    assert folders["llm phi-2, as safetensors"] == ()
    assert folders["encoder hubert-large-ls960-ft, as safetensors"] == machine.output_folders


def test_an_archive_without_a_data_root_is_shown_with_a_remark() -> None:
    plan = planned(corpus="librispeech-100")
    uses = [use for use in plan.disk_uses if use.name.startswith("train-clean")]
    assert uses
    for use in uses:
        assert (use.folders, use.remark != DiskUse("", 0, ()).remark) == ((), True)


def test_a_disk_that_is_too_small_stops_the_command(
    machine: Machine, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {
        "corpus": "mls",
        "encoder": "hubert-xlarge",
        "projector": "linear",
        "llm": "vicuna-7b",
    }
    check_plan(planned(("h200",), **names))
    # 52,000 h at 1,280 × 50 Hz: 23 TB of features
    disks = (Disk((Path("/"),), 20e12),)
    monkeypatch.setattr(
        "components.plan.run.read_machine", lambda *folders: replace(machine, disks=disks)
    )
    arguments = [part for key, name in names.items() for part in ("-S", f"{key}={name}")]
    code, output, errors = command(*arguments, "--gpu", "h200")
    assert code == 2
    assert "20,000.0 GB" in errors
    assert "features, train" in output


def test_a_memory_that_is_too_small_stops() -> None:
    names = {"encoder": "whisper-tiny", "projector": "linear", "llm": "vicuna-13b"}
    with pytest.raises(InputError) as caught:
        check_plan(planned(("t4",), **names))
    assert caught.value.subject in ("train", "decode")
    assert "t4 has 16.0 GB" in str(caught.value)
    assert f"{caught.value.subject}.batch_seconds" in caught.value.hint
    check_plan(planned(("t4", "h200"), **names))


def test_memory_counts_each_process_of_a_machine() -> None:
    plan = planned()
    assert [memory.num_processes for memory in plan.memories] == [2]
    peak_bytes = max(load.peak_bytes for load in plan.loads)
    check_plan(replace(plan, memories=[Memory("small machine", 1.5 * peak_bytes, 1)]))
    with pytest.raises(InputError) as caught:
        check_plan(replace(plan, memories=[Memory("small machine", 1.5 * peak_bytes, 2)]))
    assert "small machine" in str(caught.value)
    many = planned(machine=replace(LARGE, num_workers=64))
    [memory] = many.memories
    assert count_processes(load_of("train", many), memory) == 2  # as many as micro-batches


@pytest.mark.parametrize(("own", "workers", "expected"), [(8, 64, 8), (8, 4, 4), (1, 64, 1)])
def test_memory_of_an_encoder_that_is_trained_here_counts_its_own_micro_batches(
    own: int, workers: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = read_networks(read_overridden_params({}, ""))
    [encoder] = networks.trained_encoders
    changed = replace(encoder, settings=replace(encoder.settings, micro_batches=own))
    monkeypatch.setattr(
        "components.plan.run.read_networks",
        lambda params: replace(networks, trained_encoders=(changed,)),
    )
    plan = planned(machine=replace(LARGE, num_workers=workers))
    load = load_of("encoder", plan)
    large, small = (
        Memory("machine", factor * expected * load.peak_bytes, workers) for factor in (1.01, 0.99)
    )
    plan = replace(plan, loads=[load])
    check_plan(replace(plan, memories=[large]))
    with refused("encoder"):
        check_plan(replace(plan, memories=[small]))


def test_more_steps_a_larger_llm_and_a_slower_card_take_longer() -> None:
    h200, t4 = read_gpu("h200"), read_gpu("t4")

    def train(**overrides: object) -> float:
        hours = load_of("train", planned(**{**PAPER, **overrides})).estimate_hours(h200)
        assert hours is not None
        return hours

    assert train(train__curriculum__0__steps=50_000) > 2 * train()
    assert train(llm="vicuna-13b") > 1.5 * train()
    bf16 = load_of("train", planned(**PAPER))
    assert bf16.estimate_hours(t4) is None  # it has no bfloat16


def test_whisper_computes_full_windows_unless_its_padding_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def operations() -> float:
        plan = planned(**{**PAPER, "encoder": "whisper-small"})
        return load_of("features", plan).total_operations

    padded, entry = operations(), catalogue.encoder("whisper-small")
    monkeypatch.setattr(
        catalogue,
        "encoder",
        lambda name: replace(entry, numerics=replace(entry.numerics, padding="none")),
    )
    assert padded > 2 * operations()  # utterances of 12 s in windows of 30 s


def test_the_decoder_of_a_whole_whisper_is_counted() -> None:
    """In float32, windows of 30 s one after another; of Qwen-Audio no decoder is kept."""

    def decode(encoder: str) -> StageLoad:
        return load_of("decode", planned(**{**PAPER, "encoder": encoder}))

    whisper, qwen_audio = decode("whisper-large-v2"), decode("qwen-audio")
    size = read_networks(
        read_overridden_params({"encoder": "whisper-large-v2"}, "overrides")
    ).encoder
    num_parameters = size.num_parameters + size.decoder_parameters
    assert 1.5e9 < num_parameters < 1.6e9, "Radford et al. 2022, table 1: 1,550 M"
    # dev-other, test-clean, test-other, and clips; hardly any is longer than a window
    seconds, num_windows = 15.8 * 3600, 8_423 + 200
    operations = 2 * size.num_parameters * 50 * 30 * num_windows
    operations += 2 * size.decoder_parameters * 3.7 * seconds
    difference = whisper.operations["float32"] - qwen_audio.operations["float32"]
    assert difference == pytest.approx(operations, rel=0.03)
    assert whisper.peak_bytes - qwen_audio.peak_bytes == 4 * num_parameters


def test_training_on_live_features_computes_full_windows_too() -> None:
    def train(mode: str) -> StageLoad:
        plan = planned(**{**PAPER, "encoder": "whisper-small", "features__mode": mode})
        return load_of("train", plan)

    live, cached = train("live"), train("cached")
    seconds = (500 + 650) * 50  # of audio in all steps
    encoder = read_networks(
        read_overridden_params({"encoder": "whisper-small"}, "overrides")
    ).encoder
    without_windows = 2 * encoder.num_parameters * 50 * seconds
    # utterances of 12 s in windows of 30 s
    assert live.total_operations - cached.total_operations > 2 * without_windows
    assert live.peak_bytes > cached.peak_bytes


def test_tuned_parts_cost_time_and_memory() -> None:
    def train(*tune: str) -> StageLoad:
        tuned = {
            "features__mode": "live",
            "train__curriculum__0__tune": list(tune),
            "train__curriculum__1__tune": ["projector"],
        }
        return load_of("train", planned(**{**PAPER, **tuned}))

    frozen, encoder_lora = train("projector"), train("encoder-lora")
    for cheaper, dearer in (
        (frozen, encoder_lora),
        (encoder_lora, train("encoder")),
        (frozen, train("llm")),
    ):
        assert cheaper.total_operations < dearer.total_operations
        assert cheaper.peak_bytes < dearer.peak_bytes
    assert (frozen.dtype, train("llm").dtype) == ("bfloat16", "float32")


def test_what_is_up_to_date_costs_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = ("train", "dev", "test", "nonspeech-train", "nonspeech-test")
    features = {f"features@{role}": 1 for role in roles}

    def plan_with(up_to_date: dict[str, int], **overrides: object) -> RunPlan:
        monkeypatch.setattr("components.plan.run.up_to_date_stages", lambda params: up_to_date)
        return planned(**{**PAPER, **overrides})

    plan = plan_with({"llm": 1, **features})
    assert [load.stage for load in plan.loads] == ["train", "decode"]
    assert not any(use.name.startswith(("features", "llm")) for use in plan.disk_uses)
    names = [download.name for download in plan.downloads]
    assert [name for name in names if "hubert" in name or "vicuna" in name] == [
        "encoder hubert-large-ls960-ft"
    ]
    done = plan_with({"encoder": 1, "llm": 1, "train": 1, "decode": 1, **features})
    assert done.loads == []
    check_plan(done)


def test_a_plan_creates_no_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_ROOT_LIBRISPEECH", str(tmp_path / "mistyped"))
    folders = {use.name: use.folders for use in planned(**PAPER).disk_uses}
    assert folders["train-clean-100"] == (tmp_path / "mistyped",)
    assert not (tmp_path / "mistyped").exists()


def lock_of_the_parameters() -> dict[str, Any]:
    """The committed lock as it is after a run with the parameters as they are now."""
    lock = yaml.safe_load((REPOSITORY / "dvc.lock").read_text())
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    for entry in lock["stages"].values():
        locked = entry.get("params", {}).get("params.yaml", {})
        locked |= {key: params[key] for key in locked if key in params}
    return lock


def test_a_stage_is_up_to_date_by_the_lock_and_its_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("catalogue", "dvc.yaml", "params.yaml"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock_of_the_parameters()))
    monkeypatch.chdir(tmp_path)
    assert up_to_date_stages(read_overridden_params({}, "overrides")) == {}  # recorded, but missing
    monkeypatch.setattr("components.plan.stage_status.LOCK", tmp_path / "empty.lock")
    (tmp_path / "empty.lock").write_text("schema: '2.0'\n")
    assert up_to_date_stages(read_overridden_params({}, "overrides")) == {}
    monkeypatch.setattr("components.plan.stage_status.LOCK", tmp_path / "dvc.lock")
    for path in ("data/corpus", "data/shards", "data/features"):
        for role in ("train", "dev", "test", "nonspeech-train", "nonspeech-test", "noise"):
            (tmp_path / path / role).mkdir(parents=True)
    for path in ("data/splits", "models/encoder", "models/llm"):
        (tmp_path / path).mkdir(parents=True)
    sizes = up_to_date_stages(read_overridden_params({}, "overrides"))
    assert sizes["features@train"] > 1e8
    assert "train" not in sizes  # its output does not exist
    other = up_to_date_stages(read_overridden_params({"llm": "phi-tiny"}, "overrides"))
    assert "features@train" in other
    assert "llm" not in other
    changed = up_to_date_stages(read_overridden_params({"shards.utterances": 100}, "overrides"))
    assert "corpus@train" in changed
    # the stages that depend on it are not up to date either
    assert not any(name.startswith(("shards", "features", "encoder")) for name in changed)


@pytest.mark.parametrize(
    ("assignment", "names"),
    [
        ("llm=phi-3", ["phi-2"]),
        ("lmm=phi-2", ["lmm", "llm"]),
        ("train.lora.rnk=8", ["rnk", "rank"]),
        ("llm", ["llm"]),
        ("llm=phi-2,vicuna-7b", ["phi-2,vicuna-7b"]),
        ("train.lora.rank=many", ["train.lora.rank"]),
    ],
)
def test_a_wrong_override_names_the_nearest(
    assignment: str, names: list[str], command: Run
) -> None:
    code, output, errors = command("-S", assignment)
    assert (code, output) == (2, "")
    assert all(name in errors for name in names), errors


def test_overrides_are_read_as_dvc_reads_them() -> None:
    assert parse_assignments(
        ["llm=phi-2", "train.lora.rank=8", "train.clip=1e-1", "a=[1,{b:x}]"]
    ) == {
        "llm": "phi-2",
        "train.lora.rank": 8,
        "train.clip": 0.1,
        "a": [1, {"b": "x"}],
    }


def test_an_unknown_card_names_the_nearest(
    command: Run,
) -> None:
    code, _, errors = command("--gpu", "h2000")
    assert code == 2
    assert "h200" in errors


def test_views_of_augmented_audio_are_counted() -> None:
    """Three views of which each is, on average over its speeds, (1/0.5 + 1/1) / 2 = 1.5 times as
    long; the other roles have one.
    """

    def features(**changed: object) -> tuple[dict[str, float], float]:
        plan = planned(**PAPER, **changed)
        uses = [use for use in plan.disk_uses if use.name.startswith("features")]
        operations = load_of("features", plan).total_operations
        return {use.name.removeprefix("features, "): use.num_bytes for use in uses}, operations

    before, operations = features()
    after, more_operations = features(features__augment__views=3, features__augment__speed=[0.5, 1])
    for role in before:
        factor = 4.5 if role in ("train", "nonspeech-train") else 1
        assert after[role] == pytest.approx(factor * before[role], rel=0.01)
    # dev and test are small
    assert more_operations == pytest.approx(4.5 * operations, rel=0.05)


def test_noise_that_the_corpus_does_not_have_stops_the_plan(
    command: Run,
) -> None:
    code, _, errors = command("-S", "features.augment.noise.probability=0.5")
    assert code == 2
    assert "'spoken'" in errors


def test_more_ranks_than_micro_batches_stop_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_WORKERS", "3")
    planned()  # processes of this machine are no more than there are micro-batches
    monkeypatch.setenv("LIBRETTO_ENGINE", "fsdp")
    with pytest.raises(InputError) as caught:
        planned()
    assert caught.value.subject == "train.micro_batches"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("trained", "owner"),
    [
        ({"encoder": "ctc-tiny", "llm": "vicuna-7b"}, "encoder 'ctc-tiny'"),
        ({"encoder": "wavlm-large", "llm": "llama-tiny"}, "llm 'llama-tiny'"),
    ],
)
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_more_ranks_than_micro_batches_of_what_is_trained_here_stop_the_plan(
    engine: str, trained: dict[str, str], owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a bridge that has enough: else the stage would stop after corpus and shards."""
    monkeypatch.setenv("LIBRETTO_WORKERS", "8")
    changed = {**trained, "projector": "linear", "train.micro_batches": 8}
    params = read_overridden_params(changed, "")
    plan_run(params, machine=LARGE)
    monkeypatch.setenv("LIBRETTO_ENGINE", engine)
    with refused("source.training.micro_batches", owner, "8 ranks", " 2 "):
        plan_run(params, machine=LARGE)
    kind = owner.partition(" ")[0]  # one that is up to date is not trained again
    monkeypatch.setattr("components.plan.run.up_to_date_stages", lambda params: {kind: 1})
    plan_run(params, machine=LARGE)


def test_ranks_share_the_llm(monkeypatch: pytest.MonkeyPatch, command: Run) -> None:
    monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    monkeypatch.setenv("LIBRETTO_ENGINE", "fsdp")
    plan = planned()
    assert (plan.engine, plan.num_ranks) == ("fsdp", 2)
    assert "2 ranks (fsdp)" in command()[1]


def test_ranks_matter_to_no_plan_without_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_ENGINE", "fsdp")
    monkeypatch.setenv("LIBRETTO_WORKERS", "3")  # more than micro-batches
    released = read_overridden_params(
        {
            "encoder": "wavlm-large",
            "projector": "slam-asr-wavlm-large-vicuna-7b",
            "llm": "vicuna-7b-released",
            "features.mode": "live",
        },
        "overrides",
    )
    assert plan_run(released, machine=LARGE).engine == ""


@pytest.mark.parametrize("part", ["encoder", "encoder-lora"])
def test_an_encoder_that_is_tuned_through_discrete_units_stops_the_plan(
    part: str, command: Run
) -> None:
    """And each stage, by the same check before its work."""
    tuned = {"projector": "speechgpt-units", "features.mode": "live"}
    tuned["train.curriculum.0.tune"] = ["projector", part]
    params = read_overridden_params(tuned, "overrides")
    with refused(part):
        check_names(params)
    with refused(part):
        check_networks(params, read_networks(params))
    options = [("-S", f"{key}={format_value(value)}") for key, value in tuned.items()]
    code, _, errors = command(*itertools.chain(*options))
    assert code == 2
    assert f"'{part}'" in errors


def test_networks_that_can_not_do_what_is_asked_stop_the_plan() -> None:
    packed = read_overridden_params({"train.packing": True}, "overrides")
    networks = read_networks(packed)
    check_networks(packed, networks)
    with pytest.raises(InputError) as caught:
        llm = replace(networks.llm, has_position_ids=False)
        check_networks(packed, replace(networks, llm=llm))
    assert caught.value.subject == "train.packing"
    assert "llama-tiny" in str(caught.value)
    assert caught.value.hint
    blocks = {"projector": "gated-cross-attention", "llm": "vicuna-7b"}
    unpacked = read_overridden_params(blocks, "overrides")
    networks = read_networks(unpacked)
    check_networks(unpacked, networks)
    small = replace(networks, llm=replace(networks.llm, num_layers=7))
    packed = read_overridden_params({**blocks, "train.packing": True}, "overrides")
    for params, sizes, subject in (
        (packed, networks, "train.packing"),
        (unpacked, small, "projector"),
    ):
        with pytest.raises(InputError) as caught:
            check_networks(params, sizes)
        assert caught.value.subject == subject
    compressed = read_overridden_params({"projector": "ctc-compressor"}, "overrides")
    check_networks(compressed, networks)
    with pytest.raises(InputError) as caught:
        encoder = replace(networks.encoder, has_ctc=False)
        check_networks(compressed, replace(networks, encoder=encoder))
    assert "ctc-tiny" in str(caught.value)
    assert caught.value.hint
