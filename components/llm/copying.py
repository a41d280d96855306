"""Training a small LLM to do what the bridge will ask of it: repeat, in its prompt's form, the text
it is shown.

Texts of the train role → a folder in HF form: weights (safetensors) and its own BPE. A frozen LLM
can only transcribe once it can copy, and copying is learnt from clean short word lists first;
damage (lost, doubled and blended tokens) comes after, in a growing share, and makes it clean up.
Cost at embedded size (0.9 M parameters, 700 steps): a minute and a half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from components.config.entries import Prompt
from components.config.model_sources import CopyingTraining
from components.model.folders.architecture import check_trained
from components.model.llms.causal import target_loss
from components.model.llms.prompt import PromptBuilder, sequences
from components.optim.loop import (
    LoopSettings,
    MicroBatchLoss,
    Objective,
    StepBatch,
    StepResult,
    TrainingLoop,
    build_adamw,
)
from components.optim.ranks import Ranks
from components.runtime.hashing import seed_of

BOS, EOS, PAD = "<s>", "</s>", "<pad>"


@dataclass(frozen=True)
class Job:
    """What a training process needs to know; plain data."""

    texts: list[str]
    out: str
    scratch: str
    model_type: str
    config: dict[str, Any]
    training: CopyingTraining
    prompt: Prompt


@dataclass(frozen=True)
class CopyTask:
    """One text to repeat and how damaged it is shown (0: clean)."""

    text: str
    damage: float
    seed: int


def tokenizer_for(texts: Sequence[str], units: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over ``texts``."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=units,
        special_tokens=[BOS, EOS, PAD],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, pad_token=PAD
    )


def build(
    model_type: str, config: dict[str, Any], tokenizer: PreTrainedTokenizerFast, seed: int
) -> Any:
    """The model with random weights drawn from ``seed``, in fp32."""
    torch.manual_seed(seed_of("llm", seed))
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    shape = CONFIG_MAPPING[model_type](vocab_size=len(tokenizer), **ids, **config)
    return AutoModelForCausalLM.from_config(shape, dtype=torch.float32)


def check(where: str, model_type: str, config: dict[str, Any]) -> None:
    """Raises InputError, which names the catalogue entry ``where``, for an architecture that does
    not work.
    """
    check_trained(
        where,
        model_type,
        config,
        lambda full: {"input_ids": torch.zeros(1, 8, dtype=torch.long)},
        causal=True,
    )


def train(ranks: Ranks, job: Job) -> None:
    """Trains as ``ranks`` says and, on the first rank, writes the finished folder to
    ``job.out``.
    """
    prompt = job.prompt.template.replace("{speech}", " ")
    # The prompt is learnt as often as the texts are many, so that its words become units.
    tokenizer = tokenizer_for(
        [*job.texts, *[prompt] * (len(job.texts) // 20 + 1)], job.training.units
    )
    model = build(job.model_type, job.config, tokenizer, job.training.seed).train()
    builder = PromptBuilder(tokenizer, job.prompt, "lower")
    optimiser = build_adamw(model, job.training.learning_rate, job.training.weight_decay)
    TrainingLoop(ranks, model, optimiser, _loop_settings(job)).run(
        CopyObjective(job, model, builder)
    )
    if ranks.rank == 0:
        model.eval().save_pretrained(job.out)
        tokenizer.save_pretrained(job.out)
    ranks.wait()


def _loop_settings(job: Job) -> LoopSettings:
    return LoopSettings(
        stage="llm",
        task="copying",
        num_steps=job.training.steps,
        warmup=job.training.warmup,
        decay="cosine",
        clip=job.training.clip,
        micro_batches=job.training.micro_batches,
        checkpoint_every=job.training.checkpoint_every,
        checkpoint=Path(job.scratch) / "checkpoint",
    )


def tasks(job: Job, words: Sequence[str], step: int) -> list[CopyTask]:
    """The texts of a step: short clean word lists first, then sentences and word lists, more and
    more of them damaged.
    """
    training = job.training
    random = np.random.default_rng(seed_of("copying", training.seed, step))
    share = (step / training.steps - training.clean_share) / max(1 - training.clean_share, 1e-9)
    found = []
    for _ in range(training.batch):
        listed = share < 0 or random.random() < 0.3
        length = int(random.integers(1, 9 if share < 0 else 12))
        text = (
            " ".join(words[index] for index in random.integers(len(words), size=length))
            if listed
            else _draw(random, job.texts)
        )
        damaged = random.random() < training.noise_share * min(1.0, max(0.0, share) * 1.5)
        found.append(CopyTask(text, 1.0 if damaged else 0.0, int(random.integers(2**62))))
    return found


def _draw(random: np.random.Generator, texts: Sequence[str]) -> str:
    return texts[int(random.integers(len(texts)))].lower()


def damaged_embeddings(embed: torch.nn.Module, ids: Sequence[int], task: CopyTask) -> torch.Tensor:
    """What stands in the speech's place for ``ids``: their embeddings, shape (frames, width),
    damaged as ``task`` says.

    Damage is what a projector does to text: a token may be lost, last two frames, or come out
    blended with another.
    """
    if not task.damage or not ids:
        return embed(torch.tensor(list(ids), dtype=torch.long))
    random = np.random.default_rng(task.seed)
    places = [
        place
        for place in range(len(ids))
        for _ in range(int(random.choice([0, 1, 2], p=[0.05, 0.75, 0.2])))
    ] or [0]
    clean = embed(torch.tensor([ids[place] for place in places], dtype=torch.long))
    others = embed(torch.from_numpy(random.integers(3, embed.num_embeddings, len(places))))
    weight = torch.from_numpy(
        np.where(random.random(len(places)) < 0.3, random.uniform(0, 0.5, len(places)), 0.0)
    ).float()[:, None]
    noise = torch.from_numpy(random.standard_normal(tuple(clean.shape))).float() * (
        0.2 * clean.detach().std()
    )
    return (1 - weight) * clean + weight * others + noise


class CopyObjective(Objective[tuple[CopyTask, list[int]]]):
    """Cross-entropy on the text to repeat; the items of a batch are (task, target ids)."""

    figure_names = ("correct", "targets")

    def __init__(self, job: Job, model: Any, builder: PromptBuilder) -> None:
        self.job, self.model, self.builder = job, model, builder
        self.words = sorted({word for text in job.texts for word in text.lower().split()})

    def batch(self, step: int) -> StepBatch[tuple[CopyTask, list[int]]]:
        items = [
            (task, self.builder.target(task.text)) for task in tasks(self.job, self.words, step)
        ]
        return StepBatch(items, len(items), sum(len(ids) + 1 for _, ids in items))

    def loss(
        self,
        micro_batch: list[tuple[CopyTask, list[int]]],
        batch: StepBatch[tuple[CopyTask, list[int]]],
        step: int,
    ) -> MicroBatchLoss:
        embed = self.model.get_input_embeddings()
        first_task = micro_batch[0][0]
        torch.manual_seed(seed_of("dropout", self.job.training.seed, step, first_task.seed))
        speech = [damaged_embeddings(embed, ids, task) for task, ids in micro_batch]
        inputs = sequences(embed, self.builder, speech, [ids for _, ids in micro_batch])
        loss = target_loss(self.model, inputs)
        return MicroBatchLoss(
            loss.total / batch.num_targets, {"correct": loss.correct, "targets": loss.tokens}
        )

    def after_step(
        self, step: int, batch: StepBatch[tuple[CopyTask, list[int]]], result: StepResult
    ) -> str:
        return f"next-token accuracy {result.figures['correct'] / result.figures['targets']:.3f}"
