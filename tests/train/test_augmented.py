"""Training on augmented audio: each epoch has a draw of its own, also after a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from components.config.params import read_params
from components.config.training import CurriculumStage
from components.features.frames import FrameSource
from components.runtime.hashing import folder_digests
from components.shards.order import split_by_length
from components.shards.reader import IndexedUtterance
from components.train.data import EpochDurations, plan_steps
from tests import world as tones
from tests.features.test_waveforms import ALL, augment, put_noise, run

ROLES = ("train", "nonspeech-train", "dev")


def trained() -> dict[str, str]:
    tones.run("train")
    return {**folder_digests(Path("models/bridge")), **folder_digests(Path("metrics"))}


@pytest.fixture
def drawn(world: Path) -> Path:
    put_noise()
    augment(**ALL, views=2)
    tones.change(
        "params.yaml", {"train.spec_augment.enabled": True, "train.spec_augment.time_frames": 3}
    )
    return world


@pytest.mark.parametrize(("mode", "step"), [("cached", 4), ("live", 9)])
def test_a_killed_training_draws_the_same_again(
    mode: str,
    step: int,
    drawn: Path,
    before_step: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(*ROLES, mode=mode)
    undisturbed = trained()
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other work"))
    num_steps = [0]

    def kill(*_: Any) -> None:
        num_steps[0] += 1
        if num_steps[0] == step:
            raise KeyboardInterrupt

    before_step(kill)
    with pytest.raises(KeyboardInterrupt):
        trained()
    assert trained() == undisturbed
    augment(seed=2)
    run(*ROLES, mode=mode)
    assert trained() != undisturbed


def test_every_epoch_has_a_draw_of_its_own_and_dev_none(
    drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In live mode, with the encoder that trains it all; the masks on frames differ by
    epoch too.
    """
    run(*ROLES, mode="live")
    calls: list[tuple[bool, int | None]] = []
    frames_by_draw: dict[tuple[str, int | None], list[torch.Tensor]] = {}
    original = FrameSource.frames

    def frames(
        self: FrameSource, items: Sequence[IndexedUtterance], epoch: int | None = None
    ) -> list[torch.Tensor]:
        results = original(self, items, epoch)
        calls.append((self.utterances[0].source == "tones-dev", epoch))
        for utterance, frames in zip(items, results, strict=True):
            frames_by_draw.setdefault((utterance.entry.id, epoch), []).append(frames)
        return results

    monkeypatch.setattr(FrameSource, "frames", frames)
    tones.run("train")
    assert {epoch for dev, epoch in calls if dev} == {None}
    epochs = {epoch for dev, epoch in calls if not dev}
    assert {0, 1} <= epochs
    assert None not in epochs
    for name in {name for name, epoch in frames_by_draw if epoch is not None}:
        drawn_at = {
            epoch: results
            for (owner, epoch), results in frames_by_draw.items()
            if owner == name and epoch is not None
        }
        for results in drawn_at.values():
            torch.testing.assert_close(results[0], results[-1], rtol=1e-4, atol=1e-4)
        assert len(drawn_at) < 2 or not torch.equal(drawn_at[0][0], drawn_at[1][0])


def test_a_batch_respects_its_budget_by_the_lengths_of_its_epoch(drawn: Path) -> None:
    run("train", "nonspeech-train", mode="live")
    speech, silence = tones.frame_source("train"), tones.frame_source("nonspeech-train")
    items = [*speech.utterances, *silence.utterances]

    def lengths(epoch: int) -> list[float]:
        return [
            (speech if index < len(speech.utterances) else silence).duration_s(item, epoch)
            for index, item in enumerate(items)
        ]

    settings = read_params().train
    stage = CurriculumStage("any", ["projector"], 0.01, 0, "constant", 0.25, [], 60)
    steps = plan_steps(
        speech.utterances,
        silence.utterances,
        settings,
        stage,
        lambda epoch: EpochDurations(lengths(epoch), lengths(epoch)),
    )
    sizes = [
        max(lengths(step.epoch)[index] for (index,) in step.members) * len(step.members)
        for step in steps
    ]
    recorded = [
        max(items[index].duration_s for (index,) in step.members) * len(step.members)
        for step in steps
    ]
    assert max(sizes) <= settings.batch_seconds < max(recorded)
    assert [step.epoch for step in steps] == sorted(step.epoch for step in steps)
    speech_indices = [
        index
        for step in steps
        if step.epoch == 1
        for (index,) in step.members
        if index < len(speech.utterances)
    ]
    assert sorted(speech_indices) == list(range(len(speech.utterances)))


def test_the_limit_of_seconds_applies_to_the_slowest_speed(
    drawn: Path, before_step: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run(*ROLES)
    speech = tones.frame_source("train")
    limit = sorted(item.duration_s for item in speech.utterances)[6]
    tones.change("params.yaml", {"train.max_seconds": limit})
    short_ids = {item.entry.id for item in split_by_length(speech.utterances, limit * 0.8)[0]}
    assert 0 < len(short_ids) < 7
    seen: set[str] = set()
    before_step(
        lambda objective, step, examples: seen.update(
            utterance.entry.id for utterance, is_speech in examples if is_speech
        )
    )
    tones.run("train")
    assert seen == short_ids
    assert f"{12 - len(short_ids)} of 12" in caplog.text
