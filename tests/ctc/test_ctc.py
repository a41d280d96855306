"""The stage ``ctc``: a head for an encoder that has none, and limits that dev gives."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from components.config.decoding import ConstraintSet
from components.config.params import read_params
from components.config.schema import parse_as
from components.ctc import calibration, training
from components.ctc.build import ENCODER, OUT, work
from components.decode.decoder import WORKSPACE
from components.decode.hypotheses import read_hypotheses
from components.features.frames import FrameSource
from components.model.encoders.ctc import CtcHead
from components.model.encoders.encoder import SpeechEncoder
from components.model.encoders.trained_head import FrameClassifier, TrainedHead
from components.model.folders.description import AcousticLimits, read_limits
from components.model.speech_llm import SpeechLLM
from components.optim.loop import TrainingLoop
from components.runtime.artifact import read_record
from components.runtime.hashing import folder_digests
from components.runtime.stage import Stage
from components.search.acoustic_evidence import CtcEvidence, ctc_evidence, letters
from components.search.beam import search
from components.shards.reader import IndexedUtterance, list_utterances, read_payload
from components.text.wer import compute_wer
from components.transcribe import Transcriber
from components.transcribe.export import export
from components.transcribe.setup import model_keys
from tests import world as tones
from tests.checkpoints import save_encoder
from tests.errors import refused

CALIBRATED = {
    "decode.sets.free.max_unsupported_units": "calibrated",
    "decode.sets.free.silence_gate": "calibrated",
}
SMALL = {
    "ctc.epochs": 2,
    "ctc.hidden": 8,
    "ctc.batch_seconds": 3,
    "ctc.warmup": 1,
    "ctc.nonspeech_share": 0.2,
    "ctc.checkpoint_every": 1,
}


def put_headless(family: str = "wavlm-layer-norm", mode: str = "cached") -> None:
    """Another encoder in the world, without a CTC head; its frames."""
    save_encoder(tones.ENCODER, family)
    tones.change("catalogue/encoder.yaml", {"tiny.lora": {"targets": ["intermediate_dense"]}})
    tones.change("params.yaml", {**SMALL, "features.mode": mode})
    tones.run_features()


def test_an_encoder_with_a_head_costs_nothing(
    world: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "train", None)
    tones.run("ctc")
    assert read_record(OUT)["head"] == "own"
    assert [path.name for path in OUT.iterdir()] == ["inputs.json"]
    assert not (work / "ctc").exists()


def test_no_epochs_are_no_head(world: Path) -> None:
    put_headless()
    tones.change("params.yaml", {"ctc.epochs": 0, **CALIBRATED})
    tones.run("ctc")
    assert read_record(OUT)["head"] == "none"
    assert [path.name for path in OUT.iterdir()] == ["inputs.json"]


def spelt_rate(references: list[str], texts: list[str]) -> float:
    """Character error rate."""
    return compute_wer(
        *([" ".join(text) for text in each] for each in (references, texts)), "as-is"
    )


def test_a_trained_head_reads_what_it_has_learnt(world: Path) -> None:
    """From random frames of tones to a rate that no guess reaches."""
    put_headless("whisper")
    tones.change(
        "params.yaml",
        {
            "ctc.epochs": 40,
            "ctc.hidden": 48,
            "ctc.learning_rate": 0.01,
            "ctc.checkpoint_every": 99,
        },
    )
    tones.run("ctc")
    assert read_record(OUT)["head"] == "trained"
    head, source = CtcHead(TrainedHead.load(OUT, "cpu")), FrameSource("train", ENCODER, "cpu")
    texts = head.decode(source.frames(source.utterances, 0))
    assert spelt_rate([item.text for item in source.utterances], texts) < 0.3
    noise = FrameSource("nonspeech-train", ENCODER, "cpu")
    assert not any(head.decode(noise.frames(noise.utterances, 0)))


@pytest.mark.parametrize(
    "network",
    [
        FrameClassifier(6, 0, 5),
        FrameClassifier(6, 8, 5),
        FrameClassifier(6, 8, 5, blocks=4),
        FrameClassifier(6, 8, 5, blocks=4, is_conditioned=True),
    ],
)
def test_the_scores_of_a_frame_do_not_depend_on_padding(network: FrameClassifier) -> None:
    network.eval()
    frames = [torch.randn(length, 6) for length in (12, 30)]
    padded = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)
    is_frame = torch.arange(30)[None] < torch.tensor([12, 30])[:, None]
    with torch.no_grad():
        together = network(padded, is_frame)
        for row, alone in enumerate(frames):
            assert torch.allclose(together[row, : len(alone)], network(alone[None])[0], atol=1e-5)


def test_transcripts_that_are_too_long_for_characters_get_subwords(world: Path) -> None:
    """Frames of 40 ms for words of 0.3 s and six letters: every second frame would be a letter."""
    save_encoder(tones.ENCODER, "parakeet", subsampling_factor=8)
    tones.change("params.yaml", {**SMALL, "features.layer": 1, "ctc.subwords": 40})
    tones.run_features()
    tones.run("ctc")
    units = len(load_file(OUT / "head.safetensors")["output.bias"])
    assert 26 < units <= 40
    texts = CtcHead(TrainedHead.load(OUT, "cpu")).decode([torch.randn(20, 32)])
    assert isinstance(texts[0], str)
    tones.change("params.yaml", {"ctc.subwords": 1})
    with refused("ctc.subwords"):
        tones.run("ctc")


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_transcripts_without_a_path_are_counted_in_log_and_record(
    share: float, world: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The record says it too where the head comes from the work cache."""
    put_headless()
    utterances = FrameSource("train", ENCODER, "cpu", Path("data")).utterances
    num_long = math.ceil(share * len(utterances))
    long = {utterance.id for utterance in utterances[:num_long]}
    num_frames = FrameSource.num_frames
    texts = {utterance.id: len(utterance.text) for utterance in utterances}

    def short_frames(self: FrameSource, utterance: IndexedUtterance, epoch: int) -> int:
        """One frame; with characters all transcripts have too many of them."""
        if utterance.id in long:
            return 1
        return min(texts.get(utterance.id, 99) - 1, num_frames(self, utterance, epoch))

    monkeypatch.setattr(FrameSource, "num_frames", short_frames)
    tones.change("params.yaml", {"ctc.subwords": 60})
    for _ in range(2):
        caplog.clear()
        stage = Stage("ctc", read_params(), "")
        work(stage)
        facts = stage.facts
        if share > training.COARSE_SHARE:
            expected = num_long / len(utterances)
            assert facts["transcripts_without_path"] == pytest.approx(expected, abs=1e-4)
            assert f"{100 * expected:.0f} % of transcripts" in caplog.text
        else:
            assert "transcripts_without_path" not in facts
            assert not (OUT / "targets.json").exists()


def weights() -> dict[str, str]:
    return folder_digests(OUT)


def test_a_killed_training_ends_with_the_same_bits(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_headless()
    tones.run("ctc")
    expected = weights()
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other"))
    tones.run_features()
    step = TrainingLoop.step
    steps: list[int] = []

    def step_or_die(self: TrainingLoop, objective: object, batch: object, number: int) -> object:
        steps.append(number)
        if steps == [0, 1, 2]:
            raise KeyboardInterrupt
        return step(self, objective, batch, number)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainingLoop, "step", step_or_die)
    with pytest.raises(KeyboardInterrupt):
        tones.run("ctc")
    tones.run("ctc")
    assert steps[:4] == [0, 1, 2, 2], "it goes on where it was killed"
    assert weights() == expected


def test_two_ranks_train_the_same_bits(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_headless()
    tones.run("ctc")
    expected = weights()
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other"))
    monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    tones.run_features()
    tones.run("ctc")
    assert weights() == expected


def test_a_training_that_diverges_stops_and_writes_no_head(world: Path) -> None:
    put_headless()
    tones.change("params.yaml", {"ctc.learning_rate": 1e30, "ctc.warmup": 0})
    with refused("ctc.learning_rate", "ctc: ", " at step "):
        tones.run("ctc")
    assert not OUT.exists()


def test_what_does_not_shape_the_head_trains_nothing(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_headless()
    tones.run("ctc")
    expected = weights()
    monkeypatch.setattr(training, "train", None)
    tones.change(
        "params.yaml",
        {"decode.sets.free.beams": 3, "ctc.calibration": 0.2, "ctc.checkpoint_every": 7},
    )
    tones.run("ctc")
    assert weights() == expected
    tones.change("params.yaml", CALIBRATED)
    tones.run("ctc")
    assert weights()["head.safetensors"] == expected["head.safetensors"] and read_limits(OUT)


def test_live_frames_train_a_head_too(world: Path) -> None:
    put_headless(mode="live")
    tones.run("ctc")
    live = load_file(OUT / "head.safetensors")
    put_headless()
    tones.run("ctc")
    for name, tensor in load_file(OUT / "head.safetensors").items():
        assert torch.allclose(tensor, live[name], atol=0.02), "stored frames are rounded to fp16"


def brute_force(text: str, ctc_text: str) -> int:
    """Most letters in a row that do not lengthen the longest common subsequence."""

    def lcs(one: str, other: str) -> int:
        table = np.zeros((len(one) + 1, len(other) + 1), int)
        for i, a in enumerate(one):
            for j, b in enumerate(other):
                table[i + 1, j + 1] = max(table[i, j] + (a == b), table[i, j + 1], table[i + 1, j])
        return int(table[-1, -1])

    one, other = letters(text), letters(ctc_text)
    lengths = [lcs(one[:end], other) for end in range(len(one) + 1)]
    runs, run = [0], 0
    for before, after in itertools.pairwise(lengths):
        run = 0 if after > before else run + 1
        runs.append(run)
    return max(runs)


def test_limits_are_those_of_brute_force(world: Path) -> None:
    """Of every utterance of dev by the definition, and of all by trying every limit."""
    tones.change("params.yaml", {**CALIBRATED, "ctc.calibration": 0.4})
    tones.run("ctc")
    encoder, source = SpeechEncoder(ENCODER), FrameSource("dev", ENCODER, "cpu")
    head, runs, probabilities = CtcHead(encoder), [], []
    for utterance in source.utterances:
        frames = source.frames([utterance])
        (evidence,) = ctc_evidence(encoder, frames, lambda tokens: "")
        runs.append(brute_force(utterance.text, head.decode(frames)[0]))
        assert evidence.count_unsupported(utterance.text) == runs[-1]
        blank = head.log_probabilities(frames)[0][:, head.blank].double().sum()
        probabilities.append(float(-torch.expm1(blank)))
    limits = read_limits(OUT)
    assert limits is not None
    passing = [n for n in range(1, 99) if sum(run > n for run in runs) <= 0.4 * len(runs)]
    assert limits.max_unsupported_units == min(passing)
    gates = [p for p in probabilities if sum(q < p for q in probabilities) <= 0.4 * len(runs)]
    assert limits.silence_gate == pytest.approx(max(gates), rel=1e-5)


def test_unsupported_letters_are_those_of_brute_force() -> None:
    random = np.random.default_rng(5)
    runs = []
    for _ in range(60):
        text, ctc_text = ("".join(random.choice([*"abc "], 14)) for _ in range(2))
        evidence = CtcEvidence(torch.zeros(1, 2), ctc_text, None, None)  # type: ignore[arg-type]
        runs.append(evidence.count_unsupported(text))
        assert runs[-1] == brute_force(text, ctc_text), (text, ctc_text)
    assert len(set(runs)) > 4


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 1.0])
def test_limits_of_any_share_are_those_of_brute_force(share: float) -> None:
    random = np.random.default_rng(3)
    for count in (1, 7, 100, 2000):
        runs = random.geometric(0.3, count).tolist()
        probabilities = random.beta(8, 0.5, count).tolist()
        limits = calibration.choose_limits(runs, probabilities, share)
        most = share * count
        least = min(n for n in range(1, 1 + max(runs)) if sum(run > n for run in runs) <= most)
        gate = max(p for p in probabilities if sum(q < p for q in probabilities) <= most)
        assert limits == AcousticLimits(least, gate)


def test_a_head_makes_a_row_and_enforces_limits(
    world: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From frames of an encoder without a head to the texts of ``ctc``, and to texts under limits
    that dev gives.
    """
    put_headless()
    tones.save_bridge()
    tones.run("ctc")
    tones.run("decode")
    free = texts_of("free")
    head, source = CtcHead(TrainedHead.load(OUT, "cpu")), FrameSource("test", ENCODER, "cpu")
    expected = [head.decode(source.frames([item]))[0] for item in source.utterances]
    assert texts_of("ctc") == expected
    tones.change("params.yaml", {**CALIBRATED, "ctc.calibration": 1.0})
    tones.run("ctc")
    tones.run("decode")
    assert not caplog.records
    limits, sets = read_limits(OUT), read_record(Path("data/decode"))["parameters"]["sets"]
    assert limits and sets["free"]["max_unsupported_units"] == limits.max_unsupported_units
    bound = texts_of("free")
    assert bound != free
    model = SpeechLLM.load(WORKSPACE.bridge, tones.ENCODER, tones.LLM, "cpu")
    rules = parse_as(ConstraintSet, sets["free"], "free")
    for item, text in zip(source.utterances, bound, strict=True):
        frames = source.frames([item])
        evidence = ctc_evidence(TrainedHead.load(OUT, "cpu"), frames, model.builder.decode)
        assert search(model, frames, [item.duration_s], rules, evidence)[0].text == text


def test_limits_without_a_head_are_off(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A matching head can't give what CTC of dev would: the figures are of letters."""
    put_headless()
    tones.save_bridge()
    tones.change("params.yaml", {"ctc.epochs": 0, **CALIBRATED})
    tones.run("ctc")
    tones.run("decode")
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "free" in warning.getMessage()
    sets = read_record(Path("data/decode"))["parameters"]["sets"]
    assert sets["free"]["max_unsupported_units"] == sets["free"]["silence_gate"] == 0
    assert not texts_of("ctc")


def test_the_baseline_of_a_tuned_encoder_is_that_of_the_encoder_as_it_came(world: Path) -> None:
    put_headless(mode="live")
    tuned_encoder = {"train.curriculum.1.tune": ["projector", "encoder"], "train.full.encoder": 0.1}
    learnt = {"ctc.epochs": 20, "ctc.hidden": 24, "ctc.learning_rate": 0.01}
    tones.change("params.yaml", {**tuned_encoder, **learnt})
    tones.run("ctc")
    tones.run("train")
    limited = {"decode.sets.greedy.max_unsupported_units": 1}
    tones.change("params.yaml", limited)
    tones.run("decode")
    head, source = TrainedHead.load(OUT, "cpu"), FrameSource("test", ENCODER, "cpu")
    model = SpeechLLM.load(WORKSPACE.bridge, tones.ENCODER, tones.LLM, "cpu")
    tuned = FrameSource("test", ENCODER, "cpu", encoder=model.encoder)
    rules = read_params().decode.sets["greedy"]
    own_texts, tuned_texts, texts = [], [], []
    for item in source.utterances:
        frames, tuned_frames = source.frames([item]), tuned.frames([item])
        assert not torch.allclose(frames[0], tuned_frames[0], atol=0.1)
        own_texts.append(CtcHead(head).decode(frames)[0])
        tuned_texts.append(CtcHead(head).decode(tuned_frames)[0])
        evidence = ctc_evidence(head, frames, model.builder.decode)
        texts.append(search(model, tuned_frames, [item.duration_s], rules, evidence)[0].text)
    assert own_texts != tuned_texts
    assert (texts_of("ctc"), texts_of("greedy")) == (own_texts, texts)


@pytest.mark.parametrize("is_calibrated", [True, False])
def test_calibrated_limits_bind_the_evidence_that_they_were_calculated_from(
    is_calibrated: bool, world: Path, tmp_path: Path
) -> None:
    """An encoder with a head of its own that the bridge tunes: ``ctc`` reads the tuned frames,
    calibrated limits those of the encoder as it came, and figures the tuned ones; the same in the
    stage decode, in transcribe and in an export.
    """
    tones.change(
        "params.yaml",
        {
            "features.mode": "live",
            "train.curriculum.1.tune": ["projector", "encoder"],
            "train.full.encoder": 0.1,
            "decode.sets.greedy.max_unsupported_units": "calibrated" if is_calibrated else 1,
            "decode.sets.greedy.max_tokens": 40,
            "ctc.calibration": 1.0,
        },
    )
    tones.run_features()
    for stage in ("ctc", "train", "decode"):
        tones.run(stage)
    assert read_record(OUT)["head"] == "own" and bool(read_limits(OUT)) == is_calibrated
    untuned, source = SpeechEncoder(ENCODER), FrameSource("test", ENCODER, "cpu")
    model = SpeechLLM.load(WORKSPACE.bridge, tones.ENCODER, tones.LLM, "cpu")
    assert model.encoder is not None
    tuned = FrameSource("test", ENCODER, "cpu", encoder=model.encoder)
    sets = read_record(Path("data/decode"))["parameters"]["sets"]
    rules = parse_as(ConstraintSet, sets["greedy"], "greedy")
    ctc_texts: list[str] = []
    texts: dict[bool, list[str]] = {True: [], False: []}
    for item in source.utterances:
        frames, tuned_frames = source.frames([item]), tuned.frames([item])
        ctc_texts += CtcHead(model.encoder).decode(tuned_frames)
        for of_untuned, (head, own) in {
            True: (untuned, frames),
            False: (model.encoder, tuned_frames),
        }.items():
            evidence = ctc_evidence(head, own, model.builder.decode)
            hypotheses = search(model, tuned_frames, [item.duration_s], rules, evidence)
            texts[of_untuned].append(hypotheses[0].text)
    assert texts[True] != texts[False]
    assert (texts_of("ctc"), texts_of("greedy")) == (ctc_texts, texts[is_calibrated])
    export(tmp_path / "out", with_bases=True)
    assert (tmp_path / "out/ctc/limits.json").exists() == is_calibrated
    recordings = list_utterances(Path("data/shards/test"))
    for folder in (None, tmp_path / "out"):
        transcriber = Transcriber.load(folder, constraints="greedy")
        transcripts = [transcriber(read_payload(item)).text for item in recordings]
        assert transcripts == texts[is_calibrated]
        ctc = Transcriber.load(folder, constraints="ctc")
        assert [ctc(read_payload(item)).text for item in recordings] == ctc_texts
    assert model_keys(tmp_path / "out") and model_keys(None)


def texts_of(system: str) -> list[str]:
    """Of the test sources, in the order of their utterances."""
    paths = sorted(Path("data/decode/test").glob("*.parquet"))
    rows = [row for path in paths for row in read_hypotheses(path)]
    return [row.text for row in rows if row.system == system]
