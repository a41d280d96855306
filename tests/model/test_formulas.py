"""Systems of the papers at their true widths against the formulas of ``tests/model/formulas.py``:
token ids, positions of the speech, labels, loss, one training step, one search.

The LLMs have one layer, random weights and the vocabulary of the test's tokenizer; frames are
random, as wide as those of the paper's encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from components.config import catalogue
from components.model.encoders.ctc_head import CtcHeadWeights
from components.model.llms.batch import SpeechBatch, collate, interleave
from components.model.matching import MatchingWeights
from components.model.model_folder import ModelConfig
from components.model.speech_llm import SpeechLLM
from components.model.trainable import plain_name
from components.optim.loop import LoopSettings, MicroBatchLoss, Objective, StepBatch, TrainingLoop
from components.optim.ranks import Ranks
from components.search.beam import search
from components.search.constraints import GREEDY
from tests.checkpoints import save_tokenizer
from tests.conftest import REPOSITORY
from tests.model import formulas
from tests.model.formulas import Llama, Projector, Utterance

TEXTS = ["AMBER BIRCH", "Cedar delta ember fjord"]
LENGTHS = (28, 43)  # frames: no multiple of 5 or 17

pytestmark = pytest.mark.slow
SPECIAL = ("bos", "eos", "pad")
RATE, CLIP = 1e-5, 1.0
CLOSE = {"rel": 1e-5}


@dataclass(frozen=True)
class System:
    """A paper's system by the names of its recipe."""

    projector: str
    llm: str
    encoder_width: int
    formula: Projector
    rank: int = 0
    alpha: int = 0
    targets: tuple[str, ...] = ()
    matching: float = 0.0  # weight of the matching loss
    units: int = 0  # of the encoder's CTC head, where the bridge reads it
    beams: int = 1


QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
SYSTEMS = {
    "slam-asr": System("linear", "vicuna-7b", 1280, formulas.stacked_linear, beams=4),
    "speech-llama": System(
        "ctc-compressor", "llama-7b", 1024, formulas.ctc_compressor(4, 16, 0), 2, 4, QKVO, units=32
    ),
    "salmonn": System(
        "salmonn-qformer",
        "vicuna-13b",
        1280 + 768,
        formulas.window_qformer,
        8,
        32,
        ("q_proj", "v_proj"),
    ),
    "pham": System(
        "conv1d-mlp", "vicuna-7b", 1024, formulas.convolution, 16, 16, QKVO, matching=0.3
    ),
}


@dataclass
class Pair:
    """A system twice: as the project builds it, and what the formulas read."""

    system: System
    model: SpeechLLM
    utterances: list[Utterance]
    batch: SpeechBatch
    extra: dict[str, torch.Tensor]  # tensors besides the model's parameters

    def formula(self) -> Llama:
        """The LLM of the formulas, on copies of what is trained as it is now."""
        parameters = {
            plain_name(name): value.detach().clone() if value.requires_grad else value
            for name, value in self.model.named_parameters()
        }
        scale = self.system.alpha / self.system.rank if self.system.rank else 0.0
        shape = self.model.llm.config
        return Llama(
            {**parameters, **self.extra},
            shape.num_hidden_layers,
            shape.num_attention_heads,
            scale,
            shape.rms_norm_eps,
        )


@pytest.fixture(scope="module", params=SYSTEMS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """The system with LoRA that is no longer zero."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        yield build(SYSTEMS[request.param], tmp_path_factory.mktemp("tokenizer"))


def build(system: System, folder: Path) -> Pair:
    entry, projector = catalogue.llm(system.llm), catalogue.projector(system.projector)
    tokenizer = save_tokenizer(folder, "sentencepiece")
    shape = {
        name: value
        for name, value in entry.source.shape.items()
        if name in ("hidden_size", "intermediate_size", "num_attention_heads")
    }
    torch.manual_seed(11)
    llm = random_llama(shape, tokenizer)
    config = ModelConfig(
        "encoder", system.encoder_width, "llm", "float32", projector, entry.prompt, "lower"
    )
    model = SpeechLLM(config, llm, tokenizer).eval()
    extra = {}
    if system.units:
        head = CtcHeadWeights(
            torch.randn(system.units, system.encoder_width), torch.randn(system.units), 0
        )
        model.projector.set_ctc_head(head)
        extra = {"head.weight": head.weight, "head.bias": head.bias}
    parts = ["projector"]
    if system.rank:
        model.add_lora(system.rank, system.alpha, 0.0, system.targets, 1)
        parts.append("lora")
        for name, value in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.02)
    model.tune(parts)
    before, after = (
        tokenizer(part, add_special_tokens=False).input_ids
        for part in ("USER: ", " Transcribe speech to text. ASSISTANT: ")
    )
    utterances = [
        Utterance(
            [tokenizer.bos_token_id, *before],
            torch.randn(length, system.encoder_width),
            after,
            [
                *tokenizer(text.lower(), add_special_tokens=False).input_ids,
                tokenizer.eos_token_id,
            ],
        )
        for length, text in zip(LENGTHS, TEXTS, strict=True)
    ]
    targets = [model.builder.encode(text) for text in TEXTS]
    batch = collate(model.builder, targets, [utterance.frames for utterance in utterances])
    return Pair(system, model, utterances, batch, extra)


def random_llama(shape: dict[str, int], tokenizer: Any) -> Any:
    """One layer of LLaMA with random weights; those of norms differ from one too."""
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in SPECIAL}
    config = LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=1, **special, **shape)
    with torch.device("meta"):
        llm = LlamaForCausalLM(config)
    llm = llm.to_empty(device="cpu")
    llm.model.rotary_emb = type(llm.model.rotary_emb)(config)
    for name, value in llm.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(value, 0.5, 1.5)
        else:
            torch.nn.init.uniform_(value, -0.04, 0.04)
    return llm.eval().requires_grad_(False)


def loss_of(pair: Pair, llm: Llama) -> torch.Tensor:
    """The loss of the batch by the formulas: a mean over its target tokens."""
    system, num_targets = pair.system, sum(len(each.target) for each in pair.utterances)
    total = sum(
        (
            formulas.cross_entropy(llm, system.formula, utterance)
            + system.matching * formulas.matching_loss(llm, system.formula, utterance)
            if system.matching
            else formulas.cross_entropy(llm, system.formula, utterance)
        )
        for utterance in pair.utterances
    )
    assert isinstance(total, torch.Tensor)
    return total / num_targets


def model_loss(pair: Pair) -> torch.Tensor:
    weight = pair.system.matching
    output = pair.model(pair.batch, MatchingWeights(1.0, 1.0) if weight else None)
    return (output.loss + weight * output.matching_loss) / output.num_targets


def test_ids_positions_and_labels(pair: Pair) -> None:
    model, llm = pair.model, pair.formula()
    with torch.no_grad():
        inputs = interleave(model.llm.get_input_embeddings(), pair.batch, model.project(pair.batch))
        labels, rows = inputs.targets.ids.tolist(), inputs.targets.rows
        assert labels == [token for each in pair.utterances for token in each.target]
        for index, utterance in enumerate(pair.utterances):
            speech = pair.system.formula(llm.tensors, utterance.frames)
            expected = torch.cat(
                [
                    llm.embed(utterance.before),
                    speech,
                    llm.embed(utterance.after),
                    llm.embed(utterance.target),
                ]
            )
            row = inputs.embeddings[index]
            assert (row[: len(expected)] - expected).norm() < 1e-5 * expected.norm()
            assert inputs.attention_mask is not None
            assert inputs.attention_mask[index].sum() == len(expected)
            # Each label is predicted by the position before its own.
            first = len(expected) - len(utterance.target) - 1
            columns = inputs.targets.columns[rows == index].tolist()
            assert columns == list(range(first, len(expected) - 1))


class OneStep(Objective[int]):
    """The loss of the batch as an objective of the training loop."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    def batch(self, step: int) -> StepBatch[int]:
        return StepBatch([0], len(self.pair.utterances))

    def loss(self, micro_batch: list[int], batch: StepBatch[int], step: int) -> MicroBatchLoss:
        return MicroBatchLoss(model_loss(self.pair), {})


def test_the_loss_and_one_training_step(pair: Pair, tmp_path: Path) -> None:
    llm, model = pair.formula(), pair.model
    trained = {
        plain_name(name): value for name, value in model.named_parameters() if value.requires_grad
    }
    if not pair.system.matching:
        trained = {name: each for name, each in trained.items() if not name.startswith("matching")}
    copies = {name: llm.tensors[name].requires_grad_() for name in trained}
    loss = loss_of(pair, llm)
    assert model_loss(pair).item() == pytest.approx(loss.item(), **CLOSE)

    gradients = torch.autograd.grad(loss, list(copies.values()))
    norm = float(torch.stack([each.norm() for each in gradients]).norm())
    with torch.no_grad():
        stepped = {
            name: formulas.first_adamw_step(copy, gradient, RATE, CLIP, norm)
            for (name, copy), gradient in zip(copies.items(), gradients, strict=True)
        }
    before = {name: value.detach().clone() for name, value in trained.items()}
    optimiser = torch.optim.AdamW(list(trained.values()), lr=RATE, weight_decay=0.0)
    settings = LoopSettings("train", "step", 1, 1, "constant", CLIP, 1, 1, tmp_path / "last")
    objective = OneStep(pair)
    TrainingLoop(Ranks(), model, optimiser, settings).step(objective, objective.batch(0), 0)
    with torch.no_grad():
        after = loss_of(pair, replace(llm, tensors={**llm.tensors, **stepped}))
        assert after < loss
        assert model_loss(pair).item() == pytest.approx(after.item(), **CLOSE)
        for name, value in trained.items():
            value.copy_(before[name])


def test_the_search(pair: Pair) -> None:
    system, model, num_tokens, utterance = pair.system, pair.model, 2, pair.utterances[0]
    constraints = replace(GREEDY, beams=system.beams, max_tokens=num_tokens)
    hypothesis = search(model, [utterance.frames], [1.0], constraints)[0]
    assert hypothesis.tokens == formulas.beam_search(
        pair.formula(), system.formula, utterance, system.beams, num_tokens, model.builder.eos
    )
