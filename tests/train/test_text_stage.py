"""A stage of the curriculum that reads transcripts alone, and the rescoring that it serves."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.config.params import read_params
from components.decode.decoder import WORKSPACE
from components.features.frames import FrameSource
from components.model.encoders.trained_head import TrainedHead
from components.model.llms.batch import collate_texts
from components.model.llms.causal import score_texts
from components.model.speech_llm import SpeechLLM
from components.search.beam import search
from components.search.constraints import GREEDY
from components.search.rescoring import choose_texts
from components.shards.reader import IndexedUtterance
from components.text.wer import compute_wer
from components.train import selection
from tests import world as tones
from tests.checkpoints import frames_of, joined
from tests.errors import refused
from tests.model.test_ctc_embeddings import ENTRY, HEAD
from tests.search.test_ctc_beam import ChosenEvidence
from tests.world import ENCODER, LLM

TEXT = {
    "tune": ["lora"],
    "reads": "text",
    "nonspeech_share": 0.0,
    "steps": 12,
    "epochs": None,
    "warmup": 1,
}


def change_stage(number: int, values: dict[str, Any]) -> None:
    tones.change(
        "params.yaml",
        {f"train.curriculum.{number}.{name}": value for name, value in values.items()},
    )


@pytest.fixture
def text_world(world: Path) -> Path:
    """Both stages of the curriculum read text; the head of the bridge is trained."""
    Path("catalogue/projector.yaml").write_text(json.dumps({"small": ENTRY}))
    tones.change("params.yaml", {**HEAD, "train.lora.learning_rate": 0.02})
    for number in (0, 1):
        change_stage(number, TEXT)
    tones.run("ctc")
    return world


def test_the_loss_of_texts_is_that_of_a_language_model(tmp_path: Path) -> None:
    model = joined(tmp_path)
    texts = [[5, 6, 7], [8], [9, 10, 11, 12]]
    nothing = model.llm.get_input_embeddings().weight[:0]
    with torch.no_grad():
        output = model(collate_texts(model.builder, texts, nothing))
        scores = score_texts(model.llm, [model.builder.text_start], texts)
    assert output.num_targets == 8
    assert float(output.loss) == pytest.approx(-sum(scores), rel=1e-4)


def text_score(model: SpeechLLM, texts: Sequence[str]) -> float:
    builder = model.builder
    with torch.inference_mode():
        ids = [builder.encode_alone(text) for text in texts]
        return sum(score_texts(model.llm, [builder.text_start], ids))


def test_a_stage_of_text_reads_no_frames_and_teaches_the_llm_its_texts(
    text_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Callable[..., list[torch.Tensor]] = FrameSource.frames
    roles = set()

    def note_role(
        self: FrameSource, utterances: Sequence[IndexedUtterance], *epoch: int
    ) -> list[torch.Tensor]:
        roles.update(str(utterance.tar.parent.parent.name) for utterance in utterances)
        return read(self, utterances, *epoch)

    monkeypatch.setattr(FrameSource, "frames", note_role)
    tones.run("train")
    assert roles <= {"dev"}
    model = SpeechLLM.load(WORKSPACE.bridge, ENCODER, LLM, "cpu")
    texts = [utterance.text for utterance in tones.frame_source("train").utterances]
    learnt = text_score(model, texts)
    with model.lora_wrappers["llm"].disable_adapter():
        assert learnt > text_score(model, texts) + len(texts)


def test_rescoring_is_under_the_adapter_that_has_read_text_alone(text_world: Path) -> None:
    tones.run("train")
    model = SpeechLLM.load(WORKSPACE.bridge, ENCODER, LLM, "cpu")
    assert model.config.has_text_adapter
    rules = replace(GREEDY, ctc_texts=4, ctc_weight=1.0)
    evidence = [ChosenEvidence({"amber birch": -3.0, "cedar": -2.0})]
    (under_adapter,) = choose_texts(model, evidence, rules, uses_adapter=True)
    (before_training,) = choose_texts(model, evidence, rules)
    (chosen,) = search(model, frames_of([40]), [1.0], rules, evidence)
    assert chosen.score == under_adapter.score != before_training.score


def test_speech_after_text_leaves_rescoring_to_the_llm_before_training(text_world: Path) -> None:
    change_stage(1, {"reads": "speech"})
    tones.run("train")
    model = SpeechLLM.load(WORKSPACE.bridge, ENCODER, LLM, "cpu")
    assert "llm" in model.lora_wrappers and not model.config.has_text_adapter


def test_checkpoints_are_selected_by_the_errors_of_rescoring(
    text_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here of a head that hears one text in every recording."""

    def hear(head: TrainedHead, frames: Sequence[torch.Tensor], *_: object) -> list[ChosenEvidence]:
        assert isinstance(head, TrainedHead)
        return [ChosenEvidence({"amber": -1.0}) for _ in frames]

    monkeypatch.setattr(selection, "ctc_evidence", hear)
    tones.run("train")
    settings = read_params().train
    dev = tones.frame_source("dev")
    references = [
        utterance.text
        for utterance in selection.selection_utterances(dev, settings.selection, settings.seed)
    ]
    expected = compute_wer(references, ["amber"] * len(references), "casefold")
    with Path("metrics/curve.csv").open() as file:
        rates = [row["dev_wer"] for row in csv.DictReader(file) if row["dev_wer"]]
    assert [float(rate) for rate in rates] == pytest.approx([expected] * len(rates))
    assert rates


def test_text_needs_a_bridge_whose_head_can_be_rescored(text_world: Path) -> None:
    Path("catalogue/projector.yaml").write_text(
        json.dumps({"small": {"kind": "linear", "stack": 2, "hidden": 8}})
    )
    stage = read_params().train.curriculum[0].name
    with refused(stage, "ctc-embeddings"):
        tones.run("train")
