"""The encoder stage: training with CTC, killed trainings, and local checkpoints."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

from components.audio.sound import encode_flac
from components.config.augment import AddedNoise, Band, SpecAugment
from components.config.errors import InputError
from components.config.model_sources import CtcAugment, CtcTraining
from components.encoder import ctc
from components.encoder.examples import compute_examples, plan_batches
from components.encoder.tokenizers import build_character_tokenizer
from components.model.encoders.encoder import SpeechEncoder
from components.model.folders.linked_checkpoint import open_checkpoint
from components.optim.ranks import Ranks, train_together
from components.runtime.artifact import read_record, recorded_digests
from components.runtime.hashing import folder_digests
from components.shards.index import INDEX, write_index
from components.shards.reader import list_utterances, read_audio
from components.shards.writer import TarMember, write_tar
from tests import world as tones
from tests.checkpoints import PARAKEET, TEXTS, save_encoder

SHARDS = Path("data/shards")
TRAINING = CtcTraining(
    seed=1,
    epochs=2,
    batch_seconds=4,
    micro_batches=2,
    threads=1,
    window_shards=2,
    learning_rate=0.005,
    warmup=2,
    weight_decay=0.01,
    clip=5.0,
    nonspeech_share=0.2,
    statistics_batches=4,
    checkpoint_every=2,
)


class Killed(Exception):
    """Stands for a kill."""


def training_in(
    out: Path, config: dict[str, Any] | None = None, **changed: Any
) -> ctc.EncoderTraining:
    out.mkdir(exist_ok=True)
    training = replace(TRAINING, **changed)
    shards = (str(SHARDS / "train"), str(SHARDS / "nonspeech-train"))
    return ctc.EncoderTraining(
        *shards,
        str(out),
        str(out.with_suffix(".scratch")),
        {**PARAKEET, **(config or {})},
        training,
    )


# Dropout draws at random: a resumed run has to draw the same.
DROPOUT = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "layerdrop": 0.2}


AUGMENT = CtcAugment(
    [0.8, 1.0, 1.25],
    [-6, 6],
    AddedNoise(0.5, [5, 20]),
    Band(0.5, [2000, 6000]),
    SpecAugment(True, 2, 10, 1, 0.2),
)


@pytest.mark.parametrize(("config", "augment"), [({}, None), (DROPOUT, None), ({}, AUGMENT)])
@pytest.mark.parametrize("call", [2, 7, 13])
def test_a_killed_training_goes_on_and_ends_with_the_same_bits(
    config: dict[str, float],
    augment: CtcAugment | None,
    call: int,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ctc.train(Ranks(), training_in(tmp_path / "undisturbed", config, augment=augment))
    original, countdown = ctc.ctc_loss, [call]

    def die(*arguments: Any) -> torch.Tensor:
        countdown[0] -= 1
        if countdown[0] == 0:
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(ctc, "ctc_loss", die)
    with pytest.raises(Killed):
        ctc.train(Ranks(), training_in(tmp_path / "killed", config, augment=augment))
    torch.manual_seed(99)
    ctc.train(Ranks(), training_in(tmp_path / "killed", config, augment=augment))
    assert folder_digests(tmp_path / "killed") == folder_digests(tmp_path / "undisturbed")


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(world: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        train_together(ctc.train, (training_in(tmp_path / str(processes)),), processes, 1)
    assert folder_digests(tmp_path / "1") == folder_digests(tmp_path / "2")


def test_the_folder_is_read_by_the_auto_classes(world: Path, tmp_path: Path) -> None:
    ctc.train(Ranks(), training_in(tmp_path / "out"))
    model = AutoModelForCTC.from_pretrained(tmp_path / "out", local_files_only=True)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "out", local_files_only=True)
    units = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert model.config.vocab_size == len(units)
    assert extractor.feature_size == PARAKEET["num_mel_bins"]
    for utterance in list_utterances(SHARDS / "train"):
        assert units.decode(units(utterance.text).input_ids, group_tokens=False) == utterance.text
    encoder = SpeechEncoder(tmp_path / "out")
    frames = encoder([read_audio(utterance) for utterance in list_utterances(SHARDS / "dev")])
    assert all(torch.isfinite(utterance_frames).all() for utterance_frames in frames)
    assert len(encoder.decode_ctc(frames)) == len(frames)
    assert not [
        path
        for path in (tmp_path / "out").iterdir()
        if path.suffix not in (".json", ".safetensors")
    ]


def test_the_trained_model_transcribes_its_training_data(world: Path, tmp_path: Path) -> None:
    ctc.train(
        Ranks(),
        training_in(
            tmp_path / "out",
            epochs=60,
            nonspeech_share=0.1,
            learning_rate=0.01,
            warmup=10,
            checkpoint_every=1000,
        ),
    )
    encoder, utterances = SpeechEncoder(tmp_path / "out"), list_utterances(SHARDS / "train")
    texts = encoder.decode_ctc(encoder([read_audio(utterance) for utterance in utterances]))
    assert (
        sum(text == utterance.text for text, utterance in zip(texts, utterances, strict=True))
        >= len(utterances) / 2
    )
    silence = list_utterances(SHARDS / "nonspeech-train")
    assert (
        sum(map(len, encoder.decode_ctc(encoder([read_audio(utterance) for utterance in silence]))))
        <= 8
    )


def test_utterances_over_the_limit_are_left_out_and_counted(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[float] = []
    original = ctc.ctc_loss

    def note_durations(model: Any, examples: Any) -> torch.Tensor:
        seen.extend(example.duration_s for example in examples)
        return original(model, examples)

    monkeypatch.setattr(ctc, "ctc_loss", note_durations)
    lengths = sorted(utterance.duration_s for utterance in list_utterances(SHARDS / "train"))
    limit = lengths[len(lengths) // 2]
    over = sum(length > limit for length in lengths)
    ctc.train(Ranks(), training_in(tmp_path / "cut", max_seconds=limit))
    assert max(seen) == limit  # one as long as the limit is kept
    assert f"{over} of {len(lengths)}" in caplog.text
    caplog.clear()
    ctc.train(Ranks(), training_in(tmp_path / "whole"))
    assert max(seen) == lengths[-1]
    assert not [record for record in caplog.records if record.name == ctc.__name__]
    with pytest.raises(InputError, match=r"12 utterances.*0\.01 s.*training\.max_seconds"):
        ctc.train(Ranks(), training_in(tmp_path / "none", max_seconds=0.01))


def put_short(role: str, text: str, lengths: list[int]) -> None:
    """A source of clips of so many samples beside those of the role."""
    folder = SHARDS / role / "short"
    folder.mkdir()
    members = [
        TarMember(
            f"short-{length:06d}", encode_flac(tones.hiss(1)[:length]), length, 0, text, "", "en"
        )
        for length in lengths
    ]
    write_index(folder / INDEX, write_tar(folder / "short-000000.tar", members, "flac"))


@pytest.mark.parametrize("augment", [None, AUGMENT])
def test_clips_of_less_than_two_frames_are_left_out_and_counted(
    augment: CtcAugment | None, world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """MUSAN has clips of 0.03 s: of one log-mel frame the extractor makes nan, and of one frame of
    the encoder (up to 799 samples) batch norm can't be trained.
    """
    batches = {"batch_seconds": 0.1, "micro_batches": 5, "augment": augment}  # a clip each
    put_short("train", "a", [170, 479, 799])
    put_short("nonspeech-train", "", [100, 170, 319, 480])
    num_speech, num_clips = (
        len(list_utterances(SHARDS / role)) for role in ("train", "nonspeech-train")
    )
    ctc.train(Ranks(), training_in(tmp_path / "out", **batches))
    limit = "0.0625 s" if augment else "0.05 s"  # the fastest view is the shortest
    assert f"3 of {num_speech} utterances are shorter than {limit}" in caplog.text
    assert f"4 of {num_clips} non-speech clips are shorter than {limit}" in caplog.text
    encoder = SpeechEncoder(tmp_path / "out")
    frames = encoder([read_audio(utterance) for utterance in list_utterances(SHARDS / "dev")])
    assert all(torch.isfinite(utterance_frames).all() for utterance_frames in frames)


def test_the_shortest_clips_that_are_trained_on_have_two_frames(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_short("train", "a", [800, 801])
    put_short("nonspeech-train", "", [800, 959])
    ctc.train(Ranks(), training_in(tmp_path / "out", batch_seconds=0.1, micro_batches=5))
    assert "left out" not in caplog.text


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_that_diverges_stops_and_writes_no_encoder(
    precision: str, world: Path, tmp_path: Path
) -> None:
    training = training_in(tmp_path / "out", learning_rate=1e30, warmup=0, precision=precision)
    with pytest.raises(InputError, match=r"encoder: .* (nan|inf) at step \d") as stopped:
        ctc.train(Ranks(), training)
    assert "source.training.learning_rate" in stopped.value.hint
    assert not list((tmp_path / "out").iterdir())


COARSE = {"subsampling_factor": 8}


def test_subwords_are_possible_where_characters_are_not(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"10 of 12 .*training\.units.*subsampling_factor"):
        ctc.train(Ranks(), training_in(tmp_path / "characters", COARSE))
    ctc.train(Ranks(), training_in(tmp_path / "out", COARSE, units=60))
    encoder, utterances = SpeechEncoder(tmp_path / "out"), list_utterances(SHARDS / "train")
    frames = encoder([read_audio(utterance) for utterance in utterances])
    assert [len(item) for item in frames] == [
        pytest.approx(utterance.duration_s * 12.5, abs=1) for utterance in utterances
    ]
    assert len(encoder.decode_ctc(frames)) == len(frames)
    units = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert encoder.model.config.vocab_size == len(units) == 60
    assert not [
        path
        for path in (tmp_path / "out").iterdir()
        if path.suffix not in (".json", ".safetensors")
    ]
    for utterance in utterances:
        ids = units(utterance.text).input_ids
        assert len(ids) < len(utterance.text)
        # As in frames: every unit in two of them, then a blank (unit 0).
        assert units.decode([frame for unit in ids for frame in (unit, unit, 0)]) == utterance.text


def test_the_loss_is_that_of_the_formula_and_falls(world: Path) -> None:
    from transformers.models.parakeet.feature_extraction_parakeet import ParakeetFeatureExtractor

    units = build_character_tokenizer(TEXTS, Path())
    utterances = [
        *list_utterances(SHARDS / "train")[:4],
        *list_utterances(SHARDS / "nonspeech-train")[:1],
    ]
    scratch = Path("scratch")
    scratch.mkdir()
    examples = compute_examples(
        Ranks(),
        utterances,
        ParakeetFeatureExtractor(feature_size=PARAKEET["num_mel_bins"]),
        units,
        scratch,
        TRAINING,
    )
    model = ctc.build_encoder(PARAKEET, len(units), 1).eval()
    expected = 0.0
    with torch.no_grad():
        for example in examples:
            mel = example.mel[None].float()
            scores = model(
                input_features=mel, attention_mask=torch.ones(mel.shape[:2])
            ).logits.log_softmax(-1)
            frames = scores.shape[1]
            loss = torch.nn.functional.ctc_loss(
                scores.transpose(0, 1),
                example.target[None],
                torch.tensor([frames]),
                torch.tensor([len(example.target)]),
                reduction="sum",
            )
            assert torch.isfinite(loss)
            expected += float(loss) / frames
        assert float(ctc.ctc_loss(model, examples)) == pytest.approx(expected, rel=1e-4)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.003)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = ctc.ctc_loss(model, examples)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_an_epoch_has_every_utterance_once_and_its_share_of_non_speech(world: Path) -> None:
    speech, silence = list_utterances(SHARDS / "train"), list_utterances(SHARDS / "nonspeech-train")
    seconds = [utterance.duration_s for utterance in (*speech, *silence)]
    plan = plan_batches([*speech, *silence], len(speech), seconds, TRAINING)
    indices = [index for batch in plan for index in batch]
    assert sorted(index for index in indices if index < len(speech)) == sorted(
        [*range(len(speech))] * TRAINING.epochs
    )
    assert len(indices) - 2 * len(speech) == 2 * 3
    assert plan == plan_batches([*speech, *silence], len(speech), seconds, TRAINING)


def test_every_epoch_has_another_view_of_every_utterance(world: Path) -> None:
    from transformers.models.parakeet.feature_extraction_parakeet import ParakeetFeatureExtractor

    training = replace(TRAINING, augment=AUGMENT, epochs=3)
    speech, silence = list_utterances(SHARDS / "train"), list_utterances(SHARDS / "nonspeech-train")
    utterances, scratch = [*speech, *silence], Path("scratch")
    scratch.mkdir()
    extractor, units = (
        ParakeetFeatureExtractor(feature_size=PARAKEET["num_mel_bins"]),
        build_character_tokenizer(TEXTS, Path()),
    )
    examples = compute_examples(Ranks(), utterances, extractor, units, scratch, training)
    plan = plan_batches(
        utterances, len(speech), [example.duration_s for example in examples], training
    )
    indices = [index for batch in plan for index in batch if index < 3 * len(speech)]
    assert sorted(indices) == list(range(3 * len(speech)))
    first, steps = set(indices[: len(speech)]), len(plan) // 3
    assert {index % 3 for index in first} == {0}, steps
    lengths = [
        [len(examples[3 * index + view].mel) for view in range(3)] for index in range(len(speech))
    ]
    assert sum(len(set(view_lengths)) > 1 for view_lengths in lengths) > len(speech) / 2
    assert all(
        torch.equal(example.target, examples[index - index % 3].target)
        for index, example in enumerate(examples)
    )
    assert all(
        max(examples[index].duration_s for index in batch) * len(batch) <= training.batch_seconds
        for batch in plan
        if len(batch) > 1
    )


def test_the_stage_trains_once_and_records_its_inputs(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"kind": "ctc", "config": PARAKEET, "training": asdict(TRAINING)}
    tones.change("catalogue/encoder.yaml", {"tiny.source": source})
    tones.run("encoder")
    record, files = read_record(tones.ENCODER), folder_digests(tones.ENCODER)
    assert record["inputs"]["train"] == recorded_digests(SHARDS / "train")
    assert recorded_digests(tones.ENCODER).keys() == set(files) - {"inputs.json"}
    SpeechEncoder(tones.ENCODER)

    def never(*arguments: Any) -> None:
        raise AssertionError("it is trained already")

    monkeypatch.setattr(ctc, "train", never)
    tones.run("encoder")
    assert folder_digests(tones.ENCODER) == files
    tones.change("catalogue/encoder.yaml", {"tiny.source.training.epoch": 2})
    with pytest.raises(InputError, match=r"unknown key '.*epoch'\. Did you mean 'epochs'"):
        tones.run("encoder")


@pytest.fixture
def checkpoint(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local checkpoint with more in its folder than weights."""
    folder = save_encoder(tmp_path / "local/encoder", seed=5)
    (folder / "inputs.json").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "runs").mkdir()
    monkeypatch.setenv("LIBRETTO_MODELS", str(tmp_path / "local"))
    return folder


def test_pickles_and_code_of_a_local_checkpoint_are_not_copied(checkpoint: Path) -> None:
    tones.run("encoder")
    names = {path.name for path in open_checkpoint(tones.ENCODER).iterdir()}
    copied = {
        path.name for path in checkpoint.iterdir() if path.suffix in (".json", ".safetensors")
    }
    assert names == copied | {"inputs.json"}
    assert (open_checkpoint(tones.ENCODER) / "model.safetensors").read_bytes() == (
        checkpoint / "model.safetensors"
    ).read_bytes()
    assert str(checkpoint.parent) not in (tones.ENCODER / "inputs.json").read_text()
    SpeechEncoder(open_checkpoint(tones.ENCODER))


def test_an_edited_local_checkpoint_is_copied_again(checkpoint: Path) -> None:
    tones.run("encoder")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "note": 1}))
    tones.run("encoder")
    assert json.loads((open_checkpoint(tones.ENCODER) / "config.json").read_text())["note"] == 1


def test_an_incomplete_local_checkpoint_is_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").unlink()
    with pytest.raises(
        InputError,
        match=r"encoder 'tiny'.*config\.json",
    ) as refused:
        tones.run("encoder")
    assert refused.value.hint
    tones.change("catalogue/encoder.yaml", {"tiny.source.folder": "elsewhere"})
    with pytest.raises(InputError, match=r"encoder 'tiny'.*elsewhere") as refused:
        tones.run("encoder")
    assert refused.value.hint
    monkeypatch.delenv("LIBRETTO_MODELS")
    with pytest.raises(InputError, match="LIBRETTO_MODELS"):
        tones.run("encoder")
