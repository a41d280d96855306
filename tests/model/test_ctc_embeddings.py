"""The bridge kind ``ctc-embeddings``: runs of CTC units as means of the LLM's embeddings; its head,
which the stage ``ctc`` trains over tokens of the LLM; a training and a search with it.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.config.projector import CtcEmbeddings, parse_projector
from components.ctc.build import OUT
from components.decode.decoder import WORKSPACE
from components.encoder.tokenizers import build_llm_tokenizer
from components.model.bridges.ctc_embeddings import (
    NO_TOKEN,
    CtcEmbeddingsBridge,
    average_runs,
    read_token_head,
)
from components.model.encoders.ctc import CtcHead
from components.model.encoders.trained_head import FrameClassifier, TrainedHead
from components.model.llms.causal import load_tokenizer
from components.model.speech_llm import SpeechLLM
from components.search.alignment import Aligner
from components.shards.reader import list_utterances, read_payload
from components.text.wer import compute_wer
from components.transcribe import Transcriber
from components.transcribe.export import export
from tests import world as tones
from tests.checkpoints import save_llm
from tests.errors import refused
from tests.world import ENCODER, LLM

ENTRY: dict[str, Any] = {
    "kind": "ctc-embeddings",
    "units": 30,
    "stride": 2,
    "hidden": 24,
    "blocks": 2,
}
HEAD = {
    "ctc.epochs": 2,
    "ctc.batch_seconds": 3,
    "ctc.warmup": 1,
    "ctc.nonspeech_share": 0.2,
    "ctc.learning_rate": 0.01,
    "ctc.checkpoint_every": 99,
}


def averages_by_formula(probabilities: np.ndarray) -> np.ndarray:
    """Step by step: a run ends where the best unit changes, a run of blanks is dropped."""
    rows: list[np.ndarray] = []
    members: list[np.ndarray] = []
    best = probabilities.argmax(-1)
    for step, row in enumerate(probabilities):
        members.append(row)
        if step + 1 == len(best) or best[step + 1] != best[step]:
            if best[step] != 0:
                rows.append(np.mean(members, 0))
            members = []
    table = np.stack(rows or [probabilities.mean(0)])[:, NO_TOKEN:]
    return table / table.sum(-1, keepdims=True)


@given(st.integers(1, 30), st.integers(4, 9), st.integers(0, 1000))
def test_runs_are_averaged_as_the_formula_says(steps: int, units: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.normal(size=(steps, units))
    scores[:, 0] += random.choice([0, 2, 9])  # some speech is blank throughout
    probabilities = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    rows = average_runs(torch.from_numpy(probabilities))
    np.testing.assert_allclose(rows.numpy(), averages_by_formula(probabilities), rtol=1e-9)


def bridge(**changes: Any) -> tuple[CtcEmbeddingsBridge, torch.Tensor]:
    """A bridge between frames of 6 and an LLM of 5 values, and the LLM's table."""
    entry = parse_projector({**ENTRY, "units": 7, **changes}, "small")
    assert isinstance(entry, CtcEmbeddings)
    torch.manual_seed(1)
    made, table = CtcEmbeddingsBridge(entry, 6, 5), torch.nn.Embedding(40, 5)
    made.read_embeddings(table)
    return made.eval(), table.weight


def test_a_sure_head_gives_the_embeddings_of_its_tokens() -> None:
    made, table = bridge(stride=1, blocks=1, hidden=8)
    head = FrameClassifier(6, 8, 7, 1)
    tokens = [30, 31, 32, 33, 34]
    with torch.no_grad():
        head.output.weight.zero_()
        head.output.bias.copy_(torch.tensor([0, 0, 0, 60.0, 0, 0, 0]))  # the second token
    made.set_head(head, tokens)
    (vectors,) = made([torch.randn(9, 6)])
    torch.testing.assert_close(vectors, table[31:32])


def test_a_high_temperature_blends_the_tokens() -> None:
    frames = [torch.randn(40, 6)]
    cold, table = bridge()
    hot, _ = bridge(temperature=1e6)
    hot.load_state_dict(cold.state_dict())
    hot.read_embeddings(torch.nn.Embedding.from_pretrained(table))
    torch.testing.assert_close(hot(frames)[0][0], table[:5].mean(0), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(cold(frames)[0][0], table[:5].mean(0), atol=1e-2)


def test_blocks_of_a_conditioned_head_read_the_scores_below_them() -> None:
    """By the formula: after two of three blocks the probabilities, times a matrix, are added."""
    torch.manual_seed(1)
    head = FrameClassifier(6, 8, 7, 3, is_conditioned=True).eval()
    assert head.blocks is not None and head.condition is not None and head.hidden is not None
    frames = torch.randn(1, 9, 6)
    values = head.hidden(head.norm(frames))
    values = head.blocks[1](head.blocks[0](values, None), None)
    between = head.output(head.last_norm(values))
    exponentials = between.exp()
    weights = exponentials / exponentials.sum(-1, keepdim=True)
    values = values + weights @ head.condition.weight.T + head.condition.bias
    last = head.output(head.last_norm(head.blocks[2](values, None)))
    scores = head.score_layers(frames)
    torch.testing.assert_close(scores, [between, last])
    torch.testing.assert_close(head(frames), last)


def test_a_head_of_other_sizes_is_refused() -> None:
    made, _ = bridge()
    with refused("projector", "units"):
        made.set_head(FrameClassifier(6, 24, 8, 2, 2), [1, 2, 3, 4, 5, 6])


def test_a_folder_without_a_head_over_tokens_is_refused(tmp_path: Path) -> None:
    with refused(str(tmp_path / "head.safetensors"), "ctc"):
        read_token_head(tmp_path)


@pytest.mark.parametrize("form", ["plain", "chat-words"])
def test_units_are_tokens_of_the_llm_and_spell_every_text(tmp_path: Path, form: str) -> None:
    llm = load_tokenizer(save_llm(tmp_path / "llm", form=form))
    texts = ["amber birch", "cedar amber", "delta don't"]
    tokenizer, tokens = build_llm_tokenizer(texts, llm, 60)
    assert len(tokens) == len(tokenizer) - NO_TOKEN
    assert len(set(tokens)) == len(tokens)
    for text in texts:
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids
        assert (
            "".join(llm.decode([tokens[unit - NO_TOKEN]]) for unit in ids).split() == text.split()
        )
        assert tokenizer.decode(ids) == text


@pytest.fixture(params=[False, True])
def speech(world: Path, request: pytest.FixtureRequest) -> Path:
    """A world whose bridge reads a head over tokens; the head is trained."""
    entry = {**ENTRY, "blocks": 3, "is_conditioned": True} if request.param else ENTRY
    Path("catalogue/projector.yaml").write_text(json.dumps({"small": entry}))
    tones.change("params.yaml", HEAD)
    tones.run("ctc")
    return world


def test_the_head_reads_the_tokens_of_the_llm_though_the_encoder_has_a_head(speech: Path) -> None:
    head, tokens = read_token_head(OUT)
    assert len(tokens) + NO_TOKEN == ENTRY["units"] == len(head.output.bias)
    tones.change("params.yaml", {"ctc.epochs": 40})
    tones.run("ctc")
    source = tones.frame_source("train")
    texts = CtcHead(TrainedHead.load(OUT, "cpu")).decode(source.frames(source.utterances, 0))
    references = [utterance.text for utterance in source.utterances]
    spelt = ([" ".join(text) for text in each] for each in (references, texts))
    assert compute_wer(*spelt, "as-is") < 0.3  # of characters: random guesses have above 0.7


def test_words_lie_within_the_audio_at_the_rate_of_the_head(speech: Path) -> None:
    source = tones.frame_source("train")
    utterance = source.utterances[0]
    (frames,) = source.frames([utterance], 0)
    rate = len(frames) / utterance.duration_s
    words = Aligner(TrainedHead.load(OUT, "cpu"), rate)(frames, utterance.text)
    assert [word.text for word in words] == utterance.text.split()
    assert all(a.end <= b.start + 1e-6 for a, b in itertools.pairwise(words))
    assert words[-1].end > 0.6 * utterance.duration_s


def test_a_training_starts_from_the_head_and_a_stage_of_lora_leaves_it(speech: Path) -> None:
    tones.change(
        "params.yaml",
        {"train.curriculum.0.tune": ["lora"], "train.curriculum.1.tune": ["lora"]},
    )
    tones.run("train")
    model = SpeechLLM.load(WORKSPACE.bridge, ENCODER, LLM, "cpu")
    assert isinstance(model.projector, CtcEmbeddingsBridge)
    head, tokens = read_token_head(OUT)
    assert model.projector.tokens.tolist() == tokens
    for name, tensor in head.state_dict().items():
        assert torch.equal(model.projector.head.state_dict()[name], tensor), name
    tones.run("decode")


@pytest.mark.parametrize("tuned", ["lora", "projector"])
def test_an_export_has_the_head_once_unless_the_bridge_tuned_it(
    speech: Path, tmp_path: Path, tuned: str
) -> None:
    stages = {f"train.curriculum.{stage}.tune": [tuned] for stage in (0, 1)}
    tones.change("params.yaml", {**stages, "decode.sets.free.ctc_weight": 0.5})
    tones.run("train")
    export(tmp_path / "out", with_bases=True)
    assert (tmp_path / "out/ctc/head.safetensors").is_file() == (tuned == "projector")
    recording = read_payload(list_utterances(Path("data/shards/train"))[0])
    for constraints in ("free", "ctc"):
        texts = [
            Transcriber.load(folder, constraints=constraints)(recording).text
            for folder in (None, tmp_path / "out")
        ]
        assert texts[0] == texts[1], constraints


def test_an_entry_can_have_transcripts_in_the_units_of_the_head(speech: Path) -> None:
    (entry,) = json.loads(Path("catalogue/projector.yaml").read_text()).values()
    Path("catalogue/projector.yaml").write_text(
        json.dumps({"small": {**entry, "segmentation": "head"}})
    )
    tones.run("train")
    builder = SpeechLLM.load(WORKSPACE.bridge, ENCODER, LLM, "cpu").builder
    head, tokens = build_llm_tokenizer(
        [utterance.text for utterance in tones.frame_source("train").utterances],
        load_tokenizer(LLM),
        ENTRY["units"],
    )
    text = tones.frame_source("train").utterances[0].text
    assert builder.encode(text) == [tokens[unit - NO_TOKEN] for unit in head(text).input_ids]
    assert builder.decode(builder.encode(text)) == text


def test_other_weights_of_the_head_are_another_bridge(speech: Path) -> None:
    tones.run("train")
    first = (WORKSPACE.bridge / "projector.safetensors").read_bytes()
    tones.change("params.yaml", {"ctc.seed": 2})
    tones.run("ctc")
    tones.run("train")
    assert (WORKSPACE.bridge / "projector.safetensors").read_bytes() != first


def test_masks_change_what_the_head_learns(speech: Path) -> None:
    first = (OUT / "head.safetensors").read_bytes()
    tones.change("params.yaml", {"train.spec_augment.enabled": True})
    tones.run("ctc")
    assert (OUT / "head.safetensors").read_bytes() != first


def test_a_bridge_that_reads_a_head_needs_one(speech: Path) -> None:
    tones.change("params.yaml", {"ctc.epochs": 0})
    with refused("ctc.epochs"):
        tones.run("ctc")
