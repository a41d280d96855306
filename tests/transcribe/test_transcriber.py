"""Recordings to text in Python: the texts of the stage ``decode``, long recordings, and broken
sound.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from components.audio.sound import RATE, read_waveform
from components.config import catalogue
from components.decode.decoder import WORKSPACE
from components.decode.hypotheses import read_hypotheses
from components.model.bridges.gated_cross_attention import GatedCrossAttentionBridge
from components.model.folders.linked_checkpoint import open_checkpoint
from components.model.llms.causal import load_llm
from components.model.model_folder import ModelConfig, folder_digest
from components.model.speech_llm import SpeechLLM
from components.runtime.artifact import empty_folder, write_record
from components.shards.reader import list_utterances, read_payload
from components.transcribe import Transcriber
from components.transcribe.recording import Recording, open_recording
from components.transcribe.transcript import Failure, Transcript
from tests import world as tones
from tests.checkpoints import LORA, WORDS, save_encoder
from tests.errors import refused


def save_bridge(width: int = 32) -> None:
    """A bridge with random weights, of large norm so that the text depends on the audio."""
    shape = ModelConfig(
        folder_digest(tones.ENCODER),
        width,
        folder_digest(tones.LLM),
        "float32",
        catalogue.projector("small"),
        catalogue.llm("tiny").prompt,
        "lower",
    )
    torch.manual_seed(1)
    model = SpeechLLM(shape, *load_llm(open_checkpoint(tones.LLM), "float32", "cpu"))
    with torch.no_grad():
        if isinstance(model.projector, GatedCrossAttentionBridge):
            for name, parameter in model.projector.blocks.named_parameters():
                parameter.fill_(1.0) if "gate" in name else parameter.mul_(3)
        else:
            model.projector.linear2.weight *= 6
    model.add_lora(2, 4, 0.0, LORA["llama"], 1)
    model.save(empty_folder(WORKSPACE.bridge))
    write_record(WORKSPACE.bridge, "train", parameters=None, inputs={})
    tones.save_head_record()


@pytest.fixture(autouse=True)
def bridge(world: Path) -> None:
    save_bridge()


def recordings_of(role: str) -> dict[str, bytes]:
    """The FLAC of each utterance of a role."""
    return {item.id: read_payload(item) for item in list_utterances(Path("data/shards") / role)}


def long_tone(words: int, seed: int = 0, pauses: bool = False) -> np.ndarray:
    """So many words in a row; ``pauses``: 0.3 s of near silence after each fifth."""
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(0, words, 5):
        parts.append(tones.tone(" ".join(random.choice(WORDS, 5)), int(random.integers(99))))
        if pauses:
            parts.append((1e-3 * random.standard_normal(int(0.3 * RATE))).astype(np.float32))
    return np.concatenate(parts)


@pytest.mark.parametrize("mode", ["cached", "live"])
@pytest.mark.parametrize("system", ["free", "greedy", "ctc"])
def test_an_utterance_has_the_text_of_the_stage_decode(mode: str, system: str) -> None:
    if mode == "live":
        tones.change("params.yaml", {"features.mode": "live"})
        tones.run_features()
    tones.run("decode")
    transcriber = Transcriber.load(constraints=system)
    for role in ("dev", "test"):
        audio = recordings_of(role)
        rows = {
            row.utterance_id: row
            for file in Path("data/decode", role).iterdir()
            for row in read_hypotheses(file)
            if row.system == system
        }
        results = list(
            transcriber.stream(
                [Recording(name, open_recording(data).blocks) for name, data in audio.items()]
            )
        )
        assert [result.name for result in results] == list(audio)
        assert {
            result.name: result.text for result in results if isinstance(result, Transcript)
        } == {name: rows[name].text for name in audio}
        for result in results:
            assert isinstance(result, Transcript)
            assert [word.text for word in result.words] == result.text.split()
            if system != "ctc":
                assert result.segments[0].score == pytest.approx(rows[result.name].score, rel=1e-4)
    assert len({row.text for row in rows.values()}) > 1


def test_only_equal_lengths_are_batched_if_the_encoder_needs_it() -> None:
    save_encoder(tones.ENCODER, "wav2vec2-group-norm")
    tones.change("catalogue/encoder.yaml", {"tiny.numerics.batching": "equal-length"})
    tones.run_features()
    save_bridge()
    transcriber = Transcriber.load()
    audio = [tones.hiss(seed) for seed in range(4)]
    texts = [transcriber(item).text for item in audio]
    together = transcriber.stream([open_recording(item) for item in (*audio, audio[0])])
    assert [item.text for item in together if isinstance(item, Transcript)] == [*texts, texts[0]]


def test_three_lines_give_text_segments_and_words(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tones.tone("amber birch cedar", 1), RATE)
    transcript = Transcriber.load()(tmp_path / "a.wav")
    assert transcript.name == str(tmp_path / "a.wav")
    assert transcript.text == " ".join(passage.text for passage in transcript.segments)
    assert transcript.words and all(
        0 <= word.start <= word.end <= transcript.seconds + 0.1 for word in transcript.words
    )


def test_files_bytes_and_waveforms_have_the_same_text(tmp_path: Path) -> None:
    file = tmp_path / "a.flac"
    soundfile.write(file, np.repeat(tones.tone("ember fjord", 3)[:, None], 2, 1), RATE)
    transcriber = Transcriber.load()
    sounds = (
        file,
        str(file),
        file.read_bytes(),
        read_waveform(file),
        read_waveform(file).astype(np.float64),
    )
    assert len({transcriber(sound).text for sound in sounds}) == 1
    higher = transcriber(np.repeat(read_waveform(file), 2), 2 * RATE)
    assert higher.seconds == pytest.approx(transcriber(file).seconds)


@pytest.mark.parametrize("pauses", [False, True])
def test_a_long_recording_is_one_text_of_consecutive_segments(pauses: bool) -> None:
    waveform = long_tone(100, pauses=pauses)
    transcript = Transcriber.load(constraints="ctc", segment_seconds=6)(waveform)
    assert len(transcript.segments) >= len(waveform) / RATE / 6
    assert transcript.segments[0].start == 0
    assert transcript.segments[-1].end == pytest.approx(transcript.seconds, abs=0.01)
    assert all(
        one.end == pytest.approx(other.start)
        for one, other in zip(transcript.segments, transcript.segments[1:])
    )
    middles = [word.middle for word in transcript.words]
    assert middles == sorted(middles)
    assert transcript.silent == pytest.approx(0, abs=0.02)


def test_recordings_in_one_batch_are_independent() -> None:
    waveforms = [long_tone(count, seed, True) for seed, count in enumerate((5, 60, 10, 30, 5))]
    transcriber = Transcriber.load(segment_seconds=6)
    together = list(transcriber.stream([open_recording(item) for item in waveforms]))
    assert [item.text for item in together if isinstance(item, Transcript)] == [
        transcriber(item).text for item in waveforms
    ]


def test_silence_has_no_text() -> None:
    transcriber = Transcriber.load()
    silent = transcriber(np.zeros(5 * RATE, np.float32))
    assert (silent.text, silent.segments, silent.seconds, silent.silent) == ("", [], 5, 5)
    sound = tones.tone("amber birch", 1)
    transcript = transcriber(
        np.concatenate([np.zeros(30 * RATE, np.float32), sound, np.zeros(40 * RATE, np.float32)])
    )
    assert transcript.silent == pytest.approx(69.6, abs=0.05)
    assert transcript.segments[0].start == pytest.approx(29.8)
    assert all(30 - 0.3 <= word.start <= 31 for word in transcript.words)


def test_a_clip_shorter_than_a_frame_has_no_text() -> None:
    transcriber = Transcriber.load()
    for samples in (1, 100, transcriber.encoder.least_samples - 1):
        transcript = transcriber(np.full(samples, 0.1, np.float32))
        assert (transcript.text, transcript.words) == ("", [])
    assert len(transcriber(tones.hiss(1)[: transcriber.encoder.least_samples]).segments) == 1


@pytest.mark.parametrize(
    ("waveform", "reason"),
    [
        (np.zeros(0, np.float32), "no samples"),
        (np.array([0.1, np.nan], np.float32), "not finite"),
        (np.zeros((2, 9), np.float32), "shape"),
        (np.zeros(9, np.int16), "int16"),
        (b"no sound", "unreadable"),
        ("not-there.wav", "unreadable"),
    ],
)
def test_broken_sound_is_refused(waveform: object, reason: str) -> None:
    with refused(None, reason):
        Transcriber.load(constraints="ctc")(waveform)  # type: ignore[arg-type]


def test_a_broken_recording_does_not_affect_others(tmp_path: Path) -> None:
    def breaking() -> Iterator[np.ndarray]:
        yield long_tone(40)
        yield from open_recording(np.array([np.inf], np.float32)).blocks()

    good = tones.tone("amber birch", 1)
    transcriber = Transcriber.load(constraints="ctc", segment_seconds=6)
    recordings = [open_recording(good), Recording("broken", breaking), open_recording(good)]
    first, second, third = transcriber.stream(recordings)
    assert isinstance(first, Transcript) and isinstance(third, Transcript)
    assert first.text == third.text == transcriber(good).text
    assert isinstance(second, Failure)
    assert second.name == "broken" and "not finite" in second.reason


def test_frames_that_are_not_finite_fail_their_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    transcriber = Transcriber.load(constraints="ctc")
    good, bad = tones.tone("amber birch", 1), tones.tone("cedar delta ember", 2)
    encode = transcriber._encode

    def frames(waveforms: list[np.ndarray]) -> list[torch.Tensor]:
        return [
            tensor * float("nan") if len(waveform) == len(bad) else tensor
            for tensor, waveform in zip(encode(waveforms), waveforms)
        ]

    monkeypatch.setattr(transcriber, "_encode", frames)
    one, other = transcriber.stream([open_recording(good), open_recording(bad)])
    assert isinstance(one, Transcript) and isinstance(other, Failure)
    assert "nan" in other.reason


def test_an_hour_is_transcribed_in_the_memory_of_minutes() -> None:
    transcriber = Transcriber.load(constraints="ctc", batch_seconds=20)
    minute = np.concatenate([long_tone(15, pauses=True), np.zeros(55 * RATE, np.float32)])[
        : 60 * RATE
    ]

    def blocks() -> Iterator[np.ndarray]:
        yield from (minute for _ in range(60))

    tracemalloc.start()
    transcript = next(transcriber.stream([Recording("hour", blocks)]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(transcript, Transcript)
    assert transcript.seconds == 3600
    assert transcript.silent > 3000
    assert len(transcript.segments) == 60
    assert peak < 60 * RATE * 4 * 10  # ten minutes of samples


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"constraints": "fre"}, "'free'"),
        ({"segment_seconds": 2}, "at least 6 s"),
        ({"batch_seconds": -1}, "-1"),
    ],
)
def test_a_wrong_option_is_refused(option: dict[str, str], message: str) -> None:
    with refused(None, message):
        Transcriber.load(**option)  # type: ignore[arg-type]


def test_without_a_ctc_head_a_transcript_has_no_words() -> None:
    save_encoder(tones.ENCODER, "whisper")
    tones.run_features()
    save_bridge()
    with refused("ctc"):
        Transcriber.load(constraints="ctc")
    transcript = Transcriber.load(segment_seconds=6)(long_tone(40))
    assert transcript.words == []
    assert len(transcript.segments) > 2
    assert transcript.text.split()


def test_full_windows_give_no_time_behind_the_recording() -> None:
    """The frames of the silence that fills a window up are the bridge's; no word is in them."""
    save_encoder(tones.ENCODER, "whisper")
    tones.change("catalogue/encoder.yaml", {"tiny.numerics.padding": "full-window"})
    tones.change("params.yaml", {"ctc.epochs": 1, "ctc.hidden": 8, "ctc.batch_seconds": 90})
    tones.run_features()
    save_bridge()
    tones.run("ctc")
    audio = tones.tone("amber birch cedar", 1)
    transcript = Transcriber.load()(audio)
    assert transcript.words
    assert max(word.end for word in transcript.words) <= len(audio) / RATE


def test_another_base_than_the_bridge_was_trained_on_is_refused() -> None:
    save_encoder(tones.ENCODER, seed=2)
    tones.save_head_record()
    with refused(str(WORKSPACE.bridge)):
        Transcriber.load()


def test_frames_of_another_layer_than_the_bridge_was_trained_on_are_refused() -> None:
    key = {
        "layer": 1,
        "numerics": {"dtype": "float32", "features": "float16", "batching": "padded"},
    }
    write_record(WORKSPACE.bridge, "train", parameters=None, inputs={"train": {"key": key}})
    with refused(str(WORKSPACE.bridge)):
        Transcriber.load()
    key["layer"] = "last"
    write_record(WORKSPACE.bridge, "train", parameters=None, inputs={"train": {"key": key}})
    Transcriber.load()
