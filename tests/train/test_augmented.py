"""Training on augmented audio: each epoch hears its own draw, and a kill changes no bit."""

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
from components.train.data import plan_steps
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


def test_each_epoch_hears_its_own_draw_and_dev_none(
    drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In live mode, with the encoder that trains it all; the masks on frames differ by
    epoch too.
    """
    run(*ROLES, mode="live")
    asked: list[tuple[bool, int | None]] = []
    heard: dict[tuple[str, int | None], list[torch.Tensor]] = {}
    known = FrameSource.frames

    def frames(
        self: FrameSource, items: Sequence[IndexedUtterance], epoch: int | None = None
    ) -> list[torch.Tensor]:
        found = known(self, items, epoch)
        asked.append((self.utterances[0].source == "tones-dev", epoch))
        for item, each in zip(items, found, strict=True):
            heard.setdefault((item.entry.id, epoch), []).append(each)
        return found

    monkeypatch.setattr(FrameSource, "frames", frames)
    tones.run("train")
    assert {epoch for dev, epoch in asked if dev} == {None}
    epochs = {epoch for dev, epoch in asked if not dev}
    assert {0, 1} <= epochs
    assert None not in epochs
    for name in {name for name, epoch in heard if epoch is not None}:
        drawn_at = {
            epoch: found
            for (who, epoch), found in heard.items()
            if who == name and epoch is not None
        }
        for found in drawn_at.values():
            torch.testing.assert_close(found[0], found[-1], rtol=1e-4, atol=1e-4)
        assert len(drawn_at) < 2 or not torch.equal(drawn_at[0][0], drawn_at[1][0])


def test_a_batch_keeps_to_its_budget_by_the_lengths_of_its_epoch(drawn: Path) -> None:
    run("train", "nonspeech-train", mode="live")
    speech, silence = tones.frame_source("train"), tones.frame_source("nonspeech-train")
    items = [*speech.utterances, *silence.utterances]

    def lengths(epoch: int) -> list[float]:
        return [
            (speech if place < len(speech.utterances) else silence).duration_s(item, epoch)
            for place, item in enumerate(items)
        ]

    settings = read_params().train
    stage = CurriculumStage("any", 60, ["projector"], 0.01, 0, "constant", 0.25, [])
    steps = plan_steps(speech.utterances, silence.utterances, settings, stage, lengths)
    sizes = [
        max(lengths(step.epoch)[place] for (place,) in step.members) * len(step.members)
        for step in steps
    ]
    recorded = [
        max(items[place].duration_s for (place,) in step.members) * len(step.members)
        for step in steps
    ]
    assert max(sizes) <= settings.batch_seconds < max(recorded)
    assert [step.epoch for step in steps] == sorted(step.epoch for step in steps)
    spoken = [
        place
        for step in steps
        if step.epoch == 1
        for (place,) in step.members
        if place < len(speech.utterances)
    ]
    assert sorted(spoken) == list(range(len(speech.utterances)))


def test_the_limit_of_seconds_holds_for_the_slowest_speed(
    drawn: Path, before_step: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run(*ROLES)
    speech = tones.frame_source("train")
    limit = sorted(item.duration_s for item in speech.utterances)[6]
    tones.change("params.yaml", {"train.max_seconds": limit})
    kept = {item.entry.id for item in split_by_length(speech.utterances, limit * 0.8)[0]}
    assert 0 < len(kept) < 7
    seen: set[str] = set()
    before_step(
        lambda objective, step, examples: seen.update(
            utterance.entry.id for utterance, is_speech in examples if is_speech
        )
    )
    tones.run("train")
    assert seen == kept
    assert f"{12 - len(kept)} of 12" in caplog.text
