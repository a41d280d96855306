"""The decode stage: a hypothesis for each utterance and system, computed once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)

from components.audio.sound import RATE
from components.config.params import read_params
from components.corpus.build import work as build_corpus
from components.corpus.scan import write_scans
from components.decode import shard
from components.decode.decoder import WORKSPACE, Decoder
from components.decode.hypotheses import read_hypotheses, write_hypotheses
from components.decode.run import enforceable_sets
from components.decode.shard import DecodeJob, DecodeTiming, ShardDecoder, _shard_decoder
from components.model.encoders.encoder import SpeechEncoder
from components.model.llms.causal import load_llm
from components.model.speech_llm import SpeechLLM
from components.runtime.artifact import read_record, write_record
from components.runtime.hashing import folder_digests
from components.runtime.stage import Stage
from components.search.acoustic_evidence import ctc_evidence
from components.search.beam import search
from components.search.constraints import GREEDY
from components.shards.reader import (
    IndexedUtterance,
    list_utterances,
    read_audio,
    read_description,
)
from components.text.hypothesis import Hypothesis
from tests import world as tones
from tests.checkpoints import save_encoder, save_llm
from tests.errors import refused
from tests.world import save_bridge

OUT = Path("data/decode")
ROLES = ("dev", "test", "nonspeech-test")


@pytest.fixture(autouse=True)
def bridge(world: Path) -> None:
    save_bridge()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(shard, system) of each unit that is decoded from now on, not taken from the work cache."""
    units: list[tuple[str, str]] = []
    decode = ShardDecoder.decode

    def decode_and_note(
        self: ShardDecoder, job: DecodeJob, throughput: DecodeTiming
    ) -> list[Hypothesis]:
        units.append((job.shard, job.system))
        return decode(self, job, throughput)

    monkeypatch.setattr(ShardDecoder, "decode", decode_and_note)
    return units


def hypotheses() -> dict[str, list[Hypothesis]]:
    """All rows, by role and source."""
    return {
        path.relative_to(OUT).with_suffix("").as_posix(): read_hypotheses(path)
        for path in sorted(OUT.rglob("*.parquet"))
    }


def shards() -> int:
    return sum(len(list((Path("data/shards") / role).rglob("*.tar"))) for role in ROLES)


def test_every_utterance_has_one_hypothesis_of_every_system() -> None:
    tones.run("decode")
    decoded = hypotheses()
    assert set(decoded) == {f"{role}/{source}" for role in ROLES for source in tones.LAYOUT[role]}
    for name, rows in decoded.items():
        role, _, source = name.partition("/")
        items = [
            item.entry
            for item in list_utterances(Path("data/shards") / role)
            if item.source == source
        ]
        assert [(row.system, row.utterance_id) for row in rows] == [
            (system, item.id) for system in ("free", "greedy", "ctc") for item in items
        ]
        for row, item in zip(rows, items * 3, strict=True):
            assert (row.reference, row.speaker, row.duration_s) == (
                item.text,
                item.speaker,
                item.duration_s,
            )
            assert math.isnan(row.score) == (row.system == "ctc")
            assert row.system == "ctc" or row.score < 0
            assert row.language == "en"
            assert bool(row.alternatives) == (row.system == "free"), (
                "the other beam; greedy search and CTC have none"
            )
    texts = {row.text for rows in decoded.values() for row in rows}
    assert len(texts) > 10


def test_a_hypothesis_does_not_depend_on_its_batch() -> None:
    tones.run("decode")
    decoded = {
        (row.system, row.utterance_id): row for rows in hypotheses().values() for row in rows
    }
    model = SpeechLLM.load(WORKSPACE.bridge, tones.ENCODER, tones.LLM, "cpu")
    encoder, sets = SpeechEncoder(tones.ENCODER), read_params().decode.sets
    for role in ROLES:
        source = tones.frame_source(role)
        for item in source.utterances:
            frames = source.frames([item])
            for system, constraints in sets.items():
                expected = search(model, frames, [item.duration_s], constraints)[0]
                row = decoded[system, item.id]
                assert (row.text, row.tokens) == (expected.text, expected.tokens)
                assert row.score == pytest.approx(expected.score, rel=1e-4)
            assert decoded["ctc", item.id].text == encoder.decode_ctc(frames)[0]


def test_a_description_is_read_once_for_all_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    _shard_decoder.cache_clear()
    reads: list[tuple[str, str]] = []

    def read_and_note(utterance: IndexedUtterance) -> dict[str, Any]:
        reads.append((utterance.source, utterance.id))
        return read_description(utterance)

    monkeypatch.setattr(shard, "read_description", read_and_note)
    tones.run("decode")
    utterances = [item for role in ROLES for item in list_utterances(Path("data/shards") / role)]
    assert sorted(reads) == sorted((item.source, item.id) for item in utterances)


def test_a_decoder_loads_the_llm_only_when_it_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tones.run("decode")
    texts = {
        row.utterance_id: row.text for row in hypotheses()["test/tones-test"] if row.system == "ctc"
    }
    monkeypatch.setattr(SpeechLLM, "load", lambda *arguments: pytest.fail("loaded"))
    decoder, source = Decoder(WORKSPACE, "cpu", "last"), tones.frame_source("test")
    for utterance in source.utterances:
        if utterance.source == "tones-test":
            frames = source.frames([utterance])
            [hypothesis] = decoder.decode(frames, [utterance.duration_s], None)
            assert hypothesis.text == texts[utterance.id]


def test_a_worker_loads_another_decoder_only_for_other_inputs() -> None:
    tones.run("decode")
    loaded = _shard_decoder.cache_info()
    tones.change("params.yaml", {"decode.batch_seconds": 2})
    tones.run("decode")
    assert _shard_decoder.cache_info().misses == loaded.misses
    assert _shard_decoder.cache_info().hits > loaded.hits
    save_bridge(seed=2)
    tones.run("decode")
    assert _shard_decoder.cache_info().misses == loaded.misses + 1


def test_two_runs_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tones.run("decode")
    first = folder_digests(OUT)
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other work"))
    tones.run("decode")
    assert folder_digests(OUT) == first


@pytest.mark.slow
def test_two_workers_give_the_bytes_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tones.run("decode")
    first = folder_digests(OUT)
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other work"))
    monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    tones.run("decode")
    assert folder_digests(OUT) == first


def test_a_second_run_decodes_nothing(decoded: list[tuple[str, str]]) -> None:
    tones.run("decode")
    assert len(decoded) == 3 * shards()
    first = folder_digests(OUT)
    decoded.clear()
    tones.run("decode")
    assert decoded == []
    assert folder_digests(OUT) == first


def test_a_killed_run_goes_on_with_the_units_that_are_missing(
    decoded: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = ShardDecoder.decode

    def interrupted(
        self: ShardDecoder, job: DecodeJob, throughput: DecodeTiming
    ) -> list[Hypothesis]:
        if len(decoded) == 4:
            raise KeyboardInterrupt
        return decode(self, job, throughput)

    with monkeypatch.context() as patch:
        patch.setattr(ShardDecoder, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tones.run("decode")
    assert len(decoded) == 4
    tones.run("decode")
    assert len(decoded) == len(set(decoded)) == 3 * shards()


def test_a_new_constraint_set_decodes_only_itself(decoded: list[tuple[str, str]]) -> None:
    tones.run("decode")
    before = hypotheses()
    decoded.clear()
    sets = {name: vars(constraints) for name, constraints in read_params().decode.sets.items()}
    tones.change(
        "params.yaml", {"decode.sets": {**sets, "short": {**sets["free"], "max_tokens": 2}}}
    )
    tones.run("decode")
    assert {system for _, system in decoded} == {"short"}
    assert len(decoded) == shards()
    for name, rows in hypotheses().items():
        assert [row for row in rows if row.system in ("free", "greedy")] == [
            row for row in before[name] if row.system in ("free", "greedy")
        ]
        assert all(len(row.tokens) <= 2 for row in rows if row.system == "short")
        assert all(row.at_limit == (len(row.tokens) == 2) for row in rows if row.system == "short")


def test_two_equal_sets_are_two_systems() -> None:
    sets = {name: vars(constraints) for name, constraints in read_params().decode.sets.items()}
    tones.change("params.yaml", {"decode.sets": {**sets, "again": sets["free"]}})
    tones.run("decode")
    for rows in hypotheses().values():
        texts = {
            system: [(row.utterance_id, row.tokens) for row in rows if row.system == system]
            for system in ("free", "again")
        }
        assert texts["free"] == texts["again"] != []


def test_another_model_decodes_everything_anew(decoded: list[tuple[str, str]]) -> None:
    tones.run("decode")
    before = hypotheses()
    decoded.clear()
    save_bridge(seed=2)
    tones.run("decode")
    assert len(decoded) == 3 * shards()
    assert [row.text for rows in hypotheses().values() for row in rows if row.system == "free"] != [
        row.text for rows in before.values() for row in rows if row.system == "free"
    ]


def test_a_set_that_needs_acoustic_evidence_has_it_from_ctc(decoded: list[tuple[str, str]]) -> None:
    """The text is that of a search with the evidence of the utterance's own frames."""
    sets = {name: vars(constraints) for name, constraints in read_params().decode.sets.items()}
    tones.change(
        "params.yaml",
        {
            "decode.sets": {
                **sets,
                "bound": {**sets["free"], "max_unsupported_units": 1, "silence_gate": 0.5},
            }
        },
    )
    tones.run("decode")
    by_system = {
        (row.system, row.utterance_id): row for rows in hypotheses().values() for row in rows
    }
    model, encoder, source = (
        SpeechLLM.load(WORKSPACE.bridge, tones.ENCODER, tones.LLM, "cpu"),
        SpeechEncoder(tones.ENCODER),
        tones.frame_source("test"),
    )
    for item in source.utterances:
        frames = source.frames([item])
        evidence = ctc_evidence(encoder, frames, model.builder.decode)
        (expected,) = search(
            model, frames, [item.duration_s], read_params().decode.sets["bound"], evidence
        )
        assert by_system["bound", item.id].text == expected.text
    assert any(
        by_system["bound", utterance_id].text != by_system["free", utterance_id].text
        for system, utterance_id in by_system
        if system == "bound"
    )


def test_acoustic_limits_are_off_without_evidence(
    decoded: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    tones.change("params.yaml", {"features.layer": 1})
    tones.run_features()
    tones.run("decode")
    plain = hypotheses()
    tones.change(
        "params.yaml",
        {"decode.sets.free.max_unsupported_units": 3, "decode.sets.free.silence_gate": 0.9},
    )
    tones.run("decode")
    assert hypotheses() != plain, "the matching head tells"
    (WORKSPACE.bridge / "matching.safetensors").unlink()
    write_record(WORKSPACE.bridge, "train", parameters={}, inputs={})
    caplog.clear()
    tones.run("decode")
    assert hypotheses() == plain
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warning.name.startswith("components.decode") and "free" in warning.getMessage()
    assert read_record(Path("data/decode"))["parameters"]["sets"]["free"]["silence_gate"] == 0


@pytest.mark.parametrize(
    ("has_evidence", "has_ctc", "weight", "units"),
    [(True, True, 0.5, 3), (True, False, 0.0, 3), (False, False, 0.0, 0)],
)
def test_joint_decoding_is_off_without_a_ctc_head(
    has_evidence: bool, has_ctc: bool, weight: float, units: int
) -> None:
    """A matching head serves the limits, and no weight of CTC."""
    asked = replace(GREEDY, ctc_weight=0.5, max_unsupported_units=3)
    found = enforceable_sets({"free": asked}, has_evidence, has_ctc=has_ctc)["free"]
    assert (found.ctc_weight, found.max_unsupported_units) == (weight, units)
    assert not asked.without_acoustic_limits().needs_acoustic_evidence


def test_a_complete_whisper_decodes_by_its_own_decoder() -> None:
    save_encoder(tones.ENCODER, "whisper")
    words = [*"abcdefghijklmnopqrstuvwxyz", "Ġ", *(f"w{number}" for number in range(34))]
    vocabulary = {
        token: index for index, token in enumerate(["<|endoftext|>", "<s>", "</s>", *words])
    }
    tokenizer = WhisperTokenizerFast(vocab=vocabulary, merges=[], unk_token="<|endoftext|>")
    tokenizer.save_pretrained(tones.ENCODER)
    tones.run_features()
    save_bridge()
    tones.run("decode")
    rows = [
        row
        for source_rows in hypotheses().values()
        for row in source_rows
        if row.system == "whisper"
    ]
    assert len(rows) == sum(len(list_utterances(Path("data/shards") / role)) for role in ROLES)
    assert all(math.isnan(row.score) and not row.tokens for row in rows)
    assert len({row.text for row in rows}) > 1
    network = WhisperForConditionalGeneration.from_pretrained(tones.ENCODER).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(tones.ENCODER)
    item = list_utterances(Path("data/shards/test"))[0]
    features = extractor(read_audio(item), sampling_rate=RATE, return_tensors="pt").input_features
    tokens = [network.config.decoder_start_token_id]
    with torch.no_grad():
        while len(tokens) < 225:  # greedy by hand: the whole network anew for each token
            best = int(
                network(input_features=features, decoder_input_ids=torch.tensor([tokens]))
                .logits[0, -1]
                .argmax()
            )
            if best == network.config.eos_token_id:
                break
            tokens.append(best)
    expected = tokenizer.decode(tokens[1:], skip_special_tokens=True)
    assert next(row.text for row in rows if row.utterance_id == item.id) == " ".join(
        expected.split()
    )


def test_a_new_test_source_decodes_only_itself(decoded: list[tuple[str, str]]) -> None:
    tones.run("decode")
    decoded.clear()
    tones.write_shards("test", {**tones.LAYOUT["test"], "new-test": [2]})
    tones.run("features", "test")
    tones.run("decode")
    assert set(decoded) == {("new-test-000000.tar", system) for system in ("free", "greedy", "ctc")}
    assert "test/new-test" in hypotheses()


def test_without_a_head_for_the_stored_layer_ctc_is_no_system() -> None:
    tones.change("params.yaml", {"features.layer": 1})
    tones.run_features()
    tones.run("decode")
    assert {row.system for rows in hypotheses().values() for row in rows} == {"free", "greedy"}


def test_an_encoder_without_a_head_has_no_ctc() -> None:
    save_encoder(tones.ENCODER, "hubert-group-norm")
    tones.change("catalogue/encoder.yaml", {"tiny.numerics.batching": "equal-length"})
    tones.run_features()
    save_bridge()
    tones.run("decode")
    assert {row.system for rows in hypotheses().values() for row in rows} == {"free", "greedy"}


def test_live_features_are_decoded_too() -> None:
    tones.run("decode")
    cached = hypotheses()
    tones.change("params.yaml", {"features.mode": "live"})
    tones.run_features()
    tones.run("decode")
    for name, rows in hypotheses().items():
        assert [(row.system, row.utterance_id, row.reference) for row in rows] == [
            (row.system, row.utterance_id, row.reference) for row in cached[name]
        ]
    pairs = [
        (row, other)
        for name, rows in hypotheses().items()
        for row, other in zip(rows, cached[name], strict=True)
    ]
    same = [
        row.score == pytest.approx(other.score, rel=1e-2)
        for row, other in pairs
        if row.tokens and row.tokens == other.tokens
    ]
    assert all(same)
    assert len(same) > len([row for row, _ in pairs if row.tokens]) / 2


@pytest.mark.parametrize(("padding", "largest"), [("window", 7), ("full-window", 2)])
def test_full_windows_fill_a_batch(
    padding: str, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven utterances of about a second: two windows of 30 s are in a batch of 70 s."""
    save_encoder(tones.ENCODER, "whisper")
    tones.change("catalogue/encoder.yaml", {"tiny.numerics.padding": padding})
    tones.change("params.yaml", {"decode.batch_seconds": 70})
    tones.write_shards("test", {"tones-test": [7]})
    tones.run_features()
    save_bridge()
    sizes: list[int] = []
    decode = Decoder.decode

    def decode_and_count(self: Decoder, frames: Any, *arguments: Any) -> list[Hypothesis]:
        sizes.append(len(frames))
        return decode(self, frames, *arguments)

    monkeypatch.setattr(Decoder, "decode", decode_and_count)
    tones.run("decode")
    assert max(sizes) == largest
    assert len(read_hypotheses(OUT / "test/tones-test.parquet")) == 2 * 7


def recording(name: str, seconds: float, texts: dict[str, str]) -> None:
    """Adds a recording of so many seconds, with its text, to a folder of recordings."""
    samples = 0.1 * np.random.default_rng(len(texts)).standard_normal(int(seconds * RATE)).astype(
        np.float32
    )
    Path("recordings").mkdir(exist_ok=True)
    soundfile.write(f"recordings/{name}.flac", samples, RATE)
    texts[name] = "amber birch"


@pytest.mark.parametrize("padding", ["window", "none"])
def test_a_recording_of_35_seconds_is_never_cut_and_one_of_two_frames_is_decoded(
    padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a table of recordings through shards, Whisper's windows of 30 s and every system; the
    projector stacks three frames.
    """
    texts: dict[str, str] = {}
    lengths = {"long": 35.2, "usual": 1.0, "short": 0.04}
    for name, seconds in lengths.items():
        recording(name, seconds, texts)
    lines = ["path\ttext\tspeaker", *(f"{name}.flac\t{text}\tone" for name, text in texts.items())]
    Path("recordings/table.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("LIBRETTO_ROOT_RECORDINGS", str(Path("recordings").resolve()))
    source = {"kind": "table", "root": "recordings", "table": "table.tsv"}
    tones.change(
        "catalogue/corpus.yaml",
        {"tones": {role: {} for role in ROLES} | {"test": {"recorded": source}}},
    )
    write_scans("tones")
    build_corpus(Stage("corpus", read_params(), "test"))
    tones.run("shards", "test")
    save_encoder(tones.ENCODER, "whisper")
    save_bridge()
    tones.change("catalogue/encoder.yaml", {"tiny.numerics.padding": padding})
    for role in ROLES:
        tones.run("features", role)
    counts = {item.id: item.entry.frames for item in list_utterances(Path("data/features/test"))}
    assert counts == {"long": 1760, "usual": 50, "short": 2}
    tones.run("decode")
    rows = hypotheses()["test/recorded"]
    assert sorted((row.system, row.utterance_id) for row in rows) == sorted(
        (system, name) for system in ("free", "greedy") for name in lengths
    )
    assert {row.utterance_id: row.duration_s for row in rows} == pytest.approx(lengths)


def test_a_model_of_another_llm_is_refused() -> None:
    save_llm(tones.LLM, seed=2)
    with refused("models/bridge", "models/llm"):
        tones.run("decode")


def test_the_record_names_the_inputs() -> None:
    tones.run("decode")
    record = read_record(OUT)
    assert set(record["inputs"]["model"]) == {"bridge", "encoder", "llm"}
    assert record["parameters"]["sets"].keys() == {"free", "greedy"}
    assert set(record["outputs"]) == {
        f"{role}/{source}.parquet" for role in ROLES for source in tones.LAYOUT[role]
    }


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    alternatives = [Hypothesis("vier", score=-2.5), Hypothesis("", score=-math.inf)]
    rows = [
        Hypothesis("", [], -0.1, [], "free", "a", "s", "de", "Grüße", 1.5),
        Hypothesis("四 \n x", [3, 2**40], -math.inf, alternatives, "free", "b", duration_s=0.1),
    ]
    write_hypotheses(tmp_path / "rows.parquet", rows)
    assert read_hypotheses(tmp_path / "rows.parquet") == rows


def test_perplexity_adds_the_log_probability_of_every_reference() -> None:
    """The sum over the tokens after the BOS, computed one by one; other systems do not change."""
    tones.run("decode")
    before, record = hypotheses(), read_record(OUT)["parameters"]
    assert "perplexity" not in record
    tones.change("params.yaml", {"decode.perplexity": True})
    tones.run("decode")
    with_llm = hypotheses()
    llm, tokenizer = load_llm(tones.LLM, "float32", "cpu")
    for name, rows in with_llm.items():
        llm_rows = [row for row in rows if row.system == "llm"]
        assert [row.utterance_id for row in rows if row.system != "llm"] == [
            row.utterance_id for row in before[name]
        ]
        assert bool(llm_rows) == (not name.startswith("nonspeech"))
        for row in llm_rows:
            ids, total = [tokenizer.bos_token_id], 0.0
            for token in tokenizer(row.reference.lower(), add_special_tokens=False).input_ids:
                total += float(
                    llm(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token]
                )
                ids.append(token)
            assert row.score == pytest.approx(total, rel=1e-4)
