"""Settings of the training: precision, packing, token budgets, early stop, divergence, concatenated
utterances, corrupted tokens; a killed run with all of them resumes to the same bits.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from components.config.errors import InputError
from components.config.params import read_params
from components.config.training import Concatenate, Train
from components.features.frames import FrameSource
from components.model.llms.batch import SpeechBatch, SpeechOutput
from components.model.speech_llm import SpeechLLM
from components.optim import checkpoint
from components.optim.loop import StepResult
from components.optim.precision import Precision
from components.optim.ranks import Ranks
from components.runtime.stage import Stage
from components.shards.reader import IndexedUtterance, list_utterances
from components.text.wer import WordErrors
from components.train import build, selection
from components.train.data import (
    concatenate_utterances,
    corrupt_input_tokens,
    draw_concatenations,
    plan_steps,
    recordings_of,
)
from components.train.forward import ForwardPass
from components.train.objective import StageObjective
from tests import world as tones
from tests.checkpoints import record_again
from tests.train.test_train import BRIDGE, CURVE, curve, stage_of, trained

ALL_ON = {
    "train.precision": "bf16",
    "train.packing": True,
    "train.gradient_checkpointing": True,
    "train.batch_tokens": 150,
    "train.spike": 50,
    "train.text_mask": 0.3,
    "train.concatenate": {"share": 0.7, "seconds": 3},
    "train.selection.patience": 2,
    "train.spec_augment.enabled": True,
    "train.spec_augment.time_frames": 3,
    "train.frame_noise": 0.3,
    "train.lora.dropout": 0.2,
}


def weights() -> dict[str, torch.Tensor]:
    return {
        f"{path.name}: {name}": tensor
        for path in sorted(BRIDGE.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def die_at(save: int, before: bool) -> None:
    """Trains in this process, which kills itself before or after writing so many checkpoints."""
    original, countdown = checkpoint.save, [save]

    def dying(*arguments: Any, **keywords: Any) -> None:
        countdown[0] -= 1
        if countdown[0] == 0 and before:
            os.kill(os.getpid(), signal.SIGKILL)
        original(*arguments, **keywords)
        if countdown[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save = dying
    tones.run("train")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "save", "before"),
    [("bf16", 1, False), ("fp16", 3, True), ("bf16", 4, False), ("fp16", 7, True)],
)
def test_sigkill_between_checkpoints_changes_no_bit_with_all_of_it_on(
    precision: str,
    save: int,
    before: bool,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tones.change("params.yaml", ALL_ON | {"train.precision": precision})
    undisturbed = trained()
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other work"))
    process = multiprocessing.get_context("spawn").Process(target=die_at, args=(save, before))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert trained() == undisturbed


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_has_fp32_weights_and_is_close_to_fp32(
    precision: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tones.run("train")
    full = [float(row["loss"]) for row in curve()]
    tones.change("params.yaml", {"train.precision": precision})
    tones.run("train")
    half = [float(row["loss"]) for row in curve()]
    assert half != full
    # With fp16 the first steps overflow until the scale fits, and are left out: learning comes
    # later. With bf16 another checkpoint may be the best of a stage, and the runs part.
    compared = 1 if precision == "fp16" else 4
    assert half[:compared] == pytest.approx(full[:compared], rel=0.05)
    assert all(loss < 2 * full[0] for loss in half)
    assert {tensor.dtype for tensor in weights().values()} == {torch.float32}


GATED = {"kind": "gated-cross-attention", "stack": 3, "layers": 2, "width": 16, "heads": 2}
IN_LLM = {"small": {**GATED, "hidden": 16}}  # a bridge with blocks in the LLM


@pytest.mark.parametrize(
    ("form", "bridge"),
    [
        ({"train.packing": True}, None),
        ({"train.micro_batches": 1}, None),
        ({"train.micro_batches": 5}, None),
        ({"train.micro_batches": 5, "train.gradient_checkpointing": True}, IN_LLM),
    ],
)
def test_packing_and_accumulation_give_the_same_gradients(
    form: dict[str, Any],
    bridge: dict[str, Any] | None,
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if bridge:
        Path("catalogue/projector.yaml").write_text(yaml.safe_dump(bridge))
    seen: list[list[torch.Tensor]] = []
    original = Ranks.clip_gradients

    def note_gradients(self: Ranks, parameters: list[torch.nn.Parameter], most: float) -> float:
        seen[-1] += [parameter.grad.clone() for parameter in parameters]
        return original(self, parameters, most)

    monkeypatch.setattr(Ranks, "clip_gradients", note_gradients)
    last = read_params().raw["train"]["curriculum"][1] | {
        "steps": 1
    }  # AdamW's first step makes much of a rounding
    tones.change(
        "params.yaml",
        {"train.lora.dropout": 0.0, "train.curriculum": [last], "train.batch_seconds": 15},
    )
    for changes in ({}, form):
        seen.append([])
        tones.change("params.yaml", changes)
        tones.run("train")
    assert len(seen[0]) == len(seen[1]) > 10
    for one, other in zip(*seen, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def parameters_of(optimiser: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def test_a_step_that_overflows_fp16_is_skipped_and_recorded(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Precision.step

    def overflowing(
        self: Precision, optimiser: torch.optim.Optimizer, clip: Callable[[], object]
    ) -> bool:
        count[0] += 1
        parameters = parameters_of(optimiser)
        if count[0] == 3:
            parameters[0].grad[0] = float("inf")
        before = [parameter.detach().clone() for parameter in parameters]
        is_applied = original(self, optimiser, clip)
        assert is_applied == any(
            not torch.equal(parameter, old)
            for parameter, old in zip(before, parameters, strict=True)
        )
        steps.append(is_applied)
        return is_applied

    count, steps = [0], list[bool]()
    monkeypatch.setattr(Precision, "step", overflowing)
    tones.change("params.yaml", {"train.precision": "fp16"})
    tones.run("train")
    assert [row["skipped"] == "" for row in curve()] == steps
    assert steps[2] is False
    assert steps.count(True) > 2


def test_overflows_in_a_row_stop_the_run(
    world: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Precision.step

    def overflowing(
        self: Precision, optimiser: torch.optim.Optimizer, clip: Callable[[], object]
    ) -> bool:
        parameters_of(optimiser)[0].grad[0] = float("inf")
        return original(self, optimiser, clip)

    monkeypatch.setattr(Precision, "step", overflowing)
    tones.change(
        "params.yaml",
        {"train.precision": "fp16", "train.curriculum.0.steps": 40, "train.selection.every": 40},
    )
    with pytest.raises(InputError, match=r"20 steps in a row at step 19") as stopped:
        tones.run("train")
    assert "train.precision" in stopped.value.hint


def scaled(factor: float) -> None:
    """The LLM's weights times ``factor``."""
    [path] = tones.LLM.glob("*.safetensors")
    save_file(
        {name: tensor * factor for name, tensor in load_file(path).items()}, path, {"format": "pt"}
    )
    record_again(tones.LLM)


def test_an_llm_whose_dtype_overflows_stops_with_a_hint(world: Path) -> None:
    scaled(1e4)
    tones.change("catalogue/llm.yaml", {"tiny.numerics.dtype": "float16"})
    with pytest.raises(InputError, match=r"(nan|inf) at step 0 ") as stopped:
        tones.run("train")
    assert "numerics.dtype" in stopped.value.hint


def stop_record(message: str) -> dict[str, Any]:
    """The content of the file that the message names."""
    path = re.search(r"\S*stopped\.json", message)
    assert path, message
    return json.loads(Path(path[0]).read_text())


def test_a_loss_that_is_not_finite_records_all_utterances_of_its_step(
    world: Path, before_step: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, steps = FrameSource.frames, []

    def frames(
        self: FrameSource, items: list[IndexedUtterance], epoch: int | None = None
    ) -> list[torch.Tensor]:
        results = zip(items, original(self, items, epoch), strict=True)
        return [
            frames_of_item * float("nan") if item.entry.id == "tones-007" else frames_of_item
            for item, frames_of_item in results
        ]

    before_step(
        lambda objective, step, examples: steps.append([item.entry.id for item, _ in examples])
    )
    monkeypatch.setattr(FrameSource, "frames", frames)
    with pytest.raises(InputError, match=r"nan at step \d of 'projector'") as stopped:
        tones.run("train")
    reason = stop_record(str(stopped.value))
    assert reason["utterances"] == steps[-1]
    assert "tones-007" in reason["utterances"]
    assert (reason["stage"], reason["step"], reason["loss"]) == ("projector", len(steps) - 1, "nan")


def test_a_spike_stops_the_run_and_the_next_resumes_from_the_last_checkpoint(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tones.change(
        "params.yaml",
        {"train.spike": 5, "train.curriculum.0.steps": 16, "train.curriculum.1.steps": 2},
    )
    original, spikes, steps = StageObjective.after_step, [13], []

    def after_step(self: StageObjective, step: int, batch: Any, result: StepResult) -> None:
        steps.append(step)
        if self.context.stage.name == "projector" and step in spikes:
            figures = {**result.figures, "cross_entropy": result.figures["cross_entropy"] * 20}
            result = replace(result, figures=figures)
        original(self, step, batch, result)

    monkeypatch.setattr(StageObjective, "after_step", after_step)
    with pytest.raises(InputError, match=r"at step 13 of 'projector'") as stopped:
        tones.run("train")
    assert "train.spike" in stopped.value.hint
    assert stop_record(str(stopped.value))["step"] == 13
    assert steps[-1] == 13
    spikes.clear()
    steps.clear()
    tones.run("train")
    assert steps == [12, 13, 14, 15, 0, 1]


def test_a_stage_ends_after_as_many_checks_without_a_better_word_error_rate(
    world: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Both stages of 12 steps, a check every second: 0.9, 0.3, 0.3, 0.5 ends the first after 8; the
    second gets better to its end.
    """
    caplog.set_level("INFO")
    rates = iter([0.9, 0.3, 0.3, 0.5, 0.8, 0.9, 0.7, 0.9, 0.6, 0.5])
    monkeypatch.setattr(
        selection,
        "dev_errors",
        lambda *_: WordErrors(substitutions=round(10 * next(rates)), words=10),
    )
    tones.change(
        "params.yaml",
        {
            "train.selection.patience": 2,
            "train.curriculum.0.steps": 12,
            "train.curriculum.1.steps": 12,
        },
    )
    tones.run("train")
    lines = curve()
    assert [line["step"] for line in lines] == [*map(str, range(8)), *map(str, range(12, 24))]
    assert [line["stopped"] for line in lines] == [*[""] * 7, "early", *[""] * 12]
    assert "'projector' stops at step 8" in caplog.text


def test_a_stage_that_ended_early_stays_ended_after_a_kill(
    world: Path, before_step: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "dev_errors", lambda *_: WordErrors(substitutions=5, words=10))
    tones.change("params.yaml", {"train.selection.patience": 1, "train.curriculum.0.steps": 12})
    touch, steps = Path.touch, []
    before_step(
        lambda objective, step, examples: steps.append((objective.context.stage.name, step))
    )

    def killed(self: Path, *rest: Any) -> None:
        if self.name == "done":
            raise KeyboardInterrupt
        touch(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", killed)
        with pytest.raises(KeyboardInterrupt):
            tones.run("train")
    assert steps[-1] == ("projector", 3)
    tones.run("train")
    assert steps[4] == ("lora", 0)


def test_throughput_is_displayed_and_recorded_outside_the_outputs(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_PROGRESS", str(tmp_path / "progress.jsonl"))
    stage = Stage("train", read_params(), "")
    build.work(stage)
    throughput = stage.facts["throughput"]
    assert list(throughput) == ["0-projector", "1-lora"]
    assert throughput["0-projector"]["steps"] == 6
    assert 0 < throughput["0-projector"]["padding_share"] < 0.5
    assert (
        throughput["0-projector"]["tokens_per_second"]
        > 0
        < throughput["0-projector"]["audio_hours_per_hour"]
    )
    notes = [
        json.loads(line)["note"] for line in (tmp_path / "progress.jsonl").read_text().splitlines()
    ]
    assert any(
        "tokens/s" in note and "h of audio/h" in note and "padding" in note for note in notes
    )
    assert "tokens" not in CURVE.read_text()
    tones.change("params.yaml", {"train.packing": True})
    stage = Stage("train", read_params(), "")
    build.work(stage)
    assert stage.facts["throughput"]["0-projector"]["padding_share"] == 0


def test_a_family_that_packs_wrongly_is_refused_before_the_first_step(
    world: Path, before_step: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tones.save_llm(tones.LLM, "bloom")
    tones.change("catalogue/llm.yaml", {"tiny.lora.targets": tones.LORA["bloom"]})
    tones.change("params.yaml", {"train.packing": True})
    before_step(lambda *_: pytest.fail("a step was made"))
    with pytest.raises(InputError, match=r"Bloom.*train\.packing"):
        tones.run("train")


def test_packing_is_refused_by_a_bridge_in_the_llm_before_the_first_step(
    world: Path, before_step: Callable[..., None]
) -> None:
    Path("catalogue/projector.yaml").write_text(yaml.safe_dump(IN_LLM))
    tones.change("params.yaml", {"train.packing": True})
    before_step(lambda *_: pytest.fail("a step was made"))
    with pytest.raises(InputError) as caught:
        tones.run("train")
    assert caught.value.subject == "train.packing"


@pytest.fixture
def training_data(world: Path) -> tuple[list[IndexedUtterance], list[IndexedUtterance], Train]:
    """Speech, non-speech and settings."""
    return (
        list_utterances(Path("data/features/train")),
        list_utterances(Path("data/features/nonspeech-train")),
        read_params().train,
    )


def setting(settings: Train, **changed: Any) -> Train:
    return type(settings)(**{**vars(settings), **changed})


def test_a_stage_of_non_speech_only_has_every_clip_once_an_epoch_and_no_speech(
    training_data: tuple[list[IndexedUtterance], list[IndexedUtterance], Train],
) -> None:
    speech, silence, settings = training_data
    for words in (speech, []):
        indices = [
            index
            for step in plan_steps(words, silence, settings, stage_of(30, 1.0))
            for (index,) in step.members
        ]
        clips = list(range(len(words), len(words) + len(silence)))
        assert sorted(indices[: len(clips)]) == clips
        assert set(indices) == set(clips)


def test_a_last_stage_of_non_speech_only_trains(world: Path) -> None:
    tones.change("params.yaml", {"train.curriculum.1.nonspeech_share": 1.0})
    tones.run("train")
    lines = [row for row in curve() if row["stage"] == "lora"]
    assert len(lines) == 6
    assert float(lines[-1]["loss"]) < float(lines[0]["loss"])


@pytest.mark.parametrize("packing", [False, True])
def test_a_batch_respects_its_budget_of_tokens(
    packing: bool, training_data: tuple[list[IndexedUtterance], list[IndexedUtterance], Train]
) -> None:
    speech, silence, settings = training_data
    items = [*speech, *silence]
    # Not in the order of seconds, and one is over the budget alone.
    tokens = {item.entry.id: 10 + 7 * (index % 5) for index, item in enumerate(items)} | {
        items[3].entry.id: 90
    }
    settings = setting(settings, batch_tokens=80, packing=packing, batch_seconds=100)
    steps = plan_steps(
        speech,
        silence,
        settings,
        stage_of(60, 0.25),
        count_tokens=lambda item, is_speech, epoch: tokens[item.entry.id],
    )
    sizes = []
    for step in steps:
        counts = [tokens[items[index].entry.id] for (index,) in step.members]
        sizes.append(sum(counts) if packing else max(counts) * len(counts))
        assert sizes[-1] <= 80 or step.members == [(3,)]
    assert max(len(step.members) for step in steps) > 1
    assert Counter(index for step in steps for (index,) in step.members).keys() >= set(
        range(len(speech))
    )


def test_the_budget_counts_the_tokens_that_the_llm_reads(
    world: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All micro-batches of a step together read no more, padding counted; who is over it alone is
    told.
    """
    caplog.set_level("INFO")
    forward, read = SpeechLLM.forward, []

    def recorded(self: SpeechLLM, batch: SpeechBatch, *options: Any) -> SpeechOutput:
        output = forward(self, batch, *options)
        if batch.frames:  # training; search scores speech that is projected already
            read.append((len(batch.frames), output.num_tokens + output.num_padding))
        return output

    monkeypatch.setattr(SpeechLLM, "forward", recorded)
    tones.change(
        "params.yaml",
        {
            "train.batch_tokens": 200,
            "train.micro_batches": 1,
            "train.concatenate": {"share": 0.5, "seconds": 3},
        },
    )
    tones.run("train")
    assert max(tokens for count, tokens in read if count > 1) <= 200
    assert max(count for count, _ in read) > 1
    read.clear()
    tones.change("params.yaml", {"train.batch_tokens": 30})
    tones.run("train")
    assert {count for count, _ in read} == {1}
    assert "more than 30 tokens" in caplog.text


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_concatenated_utterances_are_the_share_and_no_longer_than_allowed(
    share: float, training_data: tuple[list[IndexedUtterance], list[IndexedUtterance], Train]
) -> None:
    speech = training_data[0]
    lengths = [item.duration_s for item in speech]
    counts = Counter()
    for seed in range(40):
        groups = draw_concatenations(range(len(speech)), lengths, Concatenate(share, 4.0), seed)
        assert groups == draw_concatenations(
            range(len(speech)), lengths, Concatenate(share, 4.0), seed
        )
        assert [index for group in groups for index in group] == list(range(len(speech)))
        assert all(
            len(group) == 1 or sum(lengths[index] for index in group) <= 4.0 for group in groups
        )
        assert all(len(group) == 1 for group in groups if group[-1] >= round(share * len(speech)))
        counts.update(len(group) for group in groups)
    assert (set(counts) == {1}) == (share == 0)
    assert share < 1 or {2, 3} <= set(counts)


def test_a_concatenated_utterance_has_the_frames_and_words_of_its_parts(
    world: Path,
    training_data: tuple[list[IndexedUtterance], list[IndexedUtterance], Train],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = training_data[0][:2]
    entry = concatenate_utterances([first, second]).entry
    assert entry.text == f"{first.entry.text} {second.entry.text}"
    assert (entry.frames, entry.samples) == (
        first.entry.frames + second.entry.frames,
        first.entry.samples + second.entry.samples,
    )
    assert concatenate_utterances([first]) is first
    frames_and_text: dict[str, tuple[torch.Tensor, str]] = {}
    original = ForwardPass._masked_frames

    def frames(
        self: Any,
        examples: list[tuple[IndexedUtterance, bool]],
        epoch: int,
        pieces: list[torch.Tensor],
    ) -> list[torch.Tensor]:
        masked, source = original(self, examples, epoch, pieces), tones.frame_source("train")
        for (item, is_speech), utterance_frames in zip(examples, masked, strict=True):
            if is_speech:
                assert torch.equal(utterance_frames, torch.cat(source.frames(recordings_of(item))))
                frames_and_text[item.entry.id] = utterance_frames, item.entry.text
        return masked

    monkeypatch.setattr(ForwardPass, "_masked_frames", frames)
    tones.change("params.yaml", {"train.concatenate": {"share": 1.0, "seconds": 4}})
    tones.run("train")
    assert any("+" in name for name in frames_and_text)


def test_concatenated_utterances_differ_between_epochs_and_respect_the_budget(
    training_data: tuple[list[IndexedUtterance], list[IndexedUtterance], Train],
) -> None:
    speech, silence, settings = training_data
    settings = setting(settings, concatenate=Concatenate(1.0, 4.0), batch_seconds=6)
    steps = plan_steps(speech, silence, settings, stage_of(60, 0.0))
    for step in steps:
        lengths = [sum(speech[index].duration_s for index in group) for group in step.members]
        assert len(lengths) == 1 or max(lengths) * len(lengths) <= 6
    groups = [group for step in steps for group in step.members if len(group) > 1]
    assert len(set(groups)) > len(speech)


def test_replaced_tokens_are_a_share_of_plain_ones_and_the_same_again() -> None:
    ids, vocabulary = list(range(1000)), list(range(5000, 6000))
    corrupted = corrupt_input_tokens(ids, 0.2, vocabulary, 3)
    changed = [
        replacement
        for token, replacement in zip(ids, corrupted, strict=True)
        if token != replacement
    ]
    assert 150 < len(changed) < 250
    assert set(changed) <= set(vocabulary)
    assert (
        corrupted
        == corrupt_input_tokens(ids, 0.2, vocabulary, 3)
        != corrupt_input_tokens(ids, 0.2, vocabulary, 4)
    )
    assert corrupt_input_tokens(ids, 0.0, vocabulary, 3) == ids


def test_replaced_tokens_are_read_in_training_and_never_special_ones(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, seen = SpeechLLM.forward, []

    def recorded(self: SpeechLLM, batch: SpeechBatch, *options: Any) -> SpeechOutput:
        if batch.frames:  # training; search scores speech that is projected already
            special = {self.builder.eos, *self.tokenizer.all_special_ids}
            for ids, labels in zip(batch.input_ids, batch.labels, strict=True):
                assert ids[-1] == labels[-1] == self.builder.eos
                assert not special & set(ids[:-1].tolist())
                seen.append((len(ids) - 1, int((ids != labels).sum())))
        return forward(self, batch, *options)

    monkeypatch.setattr(SpeechLLM, "forward", recorded)
    tones.change("params.yaml", {"train.text_mask": 0.4})
    tones.run("train")
    total, changed = (sum(column) for column in zip(*seen, strict=True))
    assert 0.3 * total < changed < 0.5 * total


def test_settings_that_save_memory_or_watch_leave_the_bits_of_a_training(
    world: Path, work: Path
) -> None:
    """Gradient checkpointing computes the same numbers again; an alarm and a patience that nothing
    trips change nothing.
    """
    plain = trained()
    tones.change(
        "params.yaml",
        {"train.gradient_checkpointing": True, "train.spike": 1000, "train.selection.patience": 50},
    )
    watched = trained()
    assert plain.pop("inputs.json") != watched.pop("inputs.json")  # it states the settings
    assert watched == plain
