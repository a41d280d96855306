"""Training of a small LLM on the task that the bridge will set it: repeat the text whose embeddings
its prompt contains.

Texts of the train role → a folder in HF form: weights (safetensors) and a BPE tokenizer of its own.
A frozen LLM can transcribe only if it can copy. It learns to copy from clean short word lists;
corruption (lost, doubled and blended tokens) comes later, in a growing share, and teaches it to
correct errors. Cost at embedded size (0.9 M parameters, 700 steps): a minute and a half.
"""

from __future__ import annotations

import math
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
from components.model.folders.architecture import try_architecture
from components.model.llms.batch import collate, interleave
from components.model.llms.causal import predict_targets
from components.model.llms.prompt import PromptBuilder
from components.optim.loop import (
    LoopSettings,
    MicroBatchLoss,
    Objective,
    StepBatch,
    StepResult,
    TrainingLoop,
    build_adamw,
)
from components.optim.precision import Precision
from components.optim.ranks import Ranks
from components.runtime.hashing import seed_of

BOS, EOS, PAD = "<s>", "</s>", "<pad>"


@dataclass(frozen=True)
class LlmTraining:
    """What a process needs to know to train an LLM; plain data."""

    texts: list[str]
    out: str  # folder of the finished LLM
    scratch: str  # folder of checkpoints
    model_type: str  # of transformers, such as llama
    config: dict[str, Any]  # of that type
    settings: CopyingTraining
    prompt: Prompt


@dataclass(frozen=True)
class CopyTask:
    """One text to repeat, and whether its embeddings are corrupted."""

    text: str
    is_corrupted: bool
    seed: int  # of the corruption


def build_tokenizer(texts: Sequence[str], num_units: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of ``texts`` with ``num_units`` units."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_units,
        special_tokens=[BOS, EOS, PAD],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, pad_token=PAD
    )


def build_llm(
    model_type: str, config: dict[str, Any], tokenizer: PreTrainedTokenizerFast, seed: int
) -> Any:
    """The model with random weights drawn from ``seed``, in fp32."""
    torch.manual_seed(seed_of("llm", seed))
    special_ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    full_config = CONFIG_MAPPING[model_type](vocab_size=len(tokenizer), **special_ids, **config)
    return AutoModelForCausalLM.from_config(full_config, dtype=torch.float32)


def check_architecture(where: str, model_type: str, config: dict[str, Any]) -> None:
    """Raises InputError, which names the catalogue entry ``where``, for an architecture that does
    not work.
    """
    try_architecture(
        where,
        model_type,
        config,
        lambda full: {"input_ids": torch.zeros(1, 8, dtype=torch.long)},
        causal=True,
    )


def train(ranks: Ranks, training: LlmTraining, device: str = "cpu") -> None:
    """Trains the LLM on ``device`` and, on the first rank, writes the finished folder to
    ``training.out``.
    """
    settings = training.settings
    prompt = training.prompt.template.replace("{speech}", " ")
    # The tokenizer sees the prompt once for every 20 texts, so that its words become units.
    num_prompts = len(training.texts) // 20 + 1
    tokenizer = build_tokenizer([*training.texts, *[prompt] * num_prompts], settings.units)
    model = build_llm(training.model_type, training.config, tokenizer, settings.seed)
    model = model.to(device).train()
    builder = PromptBuilder(tokenizer, training.prompt, "lower")
    optimiser = build_adamw(model, settings.learning_rate, settings.weight_decay)
    precision = Precision(settings.precision, device)
    loop = TrainingLoop(ranks, model, optimiser, _loop_settings(training), precision)
    loop.run(CopyObjective(training, model, builder, precision))
    if ranks.rank == 0:
        model.eval().save_pretrained(training.out)
        tokenizer.save_pretrained(training.out)
    ranks.barrier()


def _loop_settings(training: LlmTraining) -> LoopSettings:
    settings = training.settings
    return LoopSettings(
        stage="llm",
        task="copying",
        num_steps=settings.steps,
        warmup=settings.warmup,
        decay="cosine",
        clip=settings.clip,
        micro_batches=settings.micro_batches,
        checkpoint_every=settings.checkpoint_every,
        checkpoint=Path(training.scratch) / "checkpoint",
        path="source.training",
    )


def draw_tasks(training: LlmTraining, words: Sequence[str], step: int) -> list[CopyTask]:
    """The tasks of a step: short clean word lists first, then sentences and word lists, a growing
    share of them corrupted.
    """
    settings = training.settings
    random = np.random.default_rng(seed_of("copying", settings.seed, step))
    # below 0: the first part of the training, in which all texts are clean
    progress = (step / settings.steps - settings.clean_share) / max(1 - settings.clean_share, 1e-9)
    corrupted_share = settings.noise_share * min(1.0, max(0.0, progress) * 1.5)
    tasks = []
    for _ in range(settings.batch):
        is_word_list = progress < 0 or random.random() < 0.3
        num_words = int(random.integers(1, 9 if progress < 0 else 12))
        text = (
            " ".join(words[index] for index in random.integers(len(words), size=num_words))
            if is_word_list
            else training.texts[int(random.integers(len(training.texts)))].lower()
        )
        is_corrupted = bool(random.random() < corrupted_share)
        tasks.append(CopyTask(text, is_corrupted, int(random.integers(2**62))))
    return tasks


def speech_embeddings(
    embed: torch.nn.Embedding, ids: Sequence[int], task: CopyTask
) -> torch.Tensor:
    """What the LLM reads in place of speech: the embeddings of ``ids``, shape (frames, width),
    corrupted where ``task`` says so.

    The corruption is that of a projector: a token is lost, takes two frames, or is blended with
    another token.
    """
    if not task.is_corrupted or not ids:
        return _embedded(embed, torch.tensor(list(ids), dtype=torch.long))
    random = np.random.default_rng(task.seed)
    indices = [
        index
        for index in range(len(ids))
        for _ in range(int(random.choice([0, 1, 2], p=[0.05, 0.75, 0.2])))
    ] or [0]
    num_frames = len(indices)
    clean = _embedded(embed, torch.tensor([ids[index] for index in indices], dtype=torch.long))
    # (frames, width); the first three ids are special tokens
    blended = _embedded(
        embed, torch.from_numpy(random.integers(3, embed.num_embeddings, num_frames))
    )
    is_blended = random.random(num_frames) < 0.3
    weights = np.where(is_blended, random.uniform(0, 0.5, num_frames), 0.0)
    weight = torch.from_numpy(weights).to(clean)[:, None]  # (frames, 1)
    noise = torch.from_numpy(random.standard_normal(tuple(clean.shape))).to(clean)
    noise = noise * (0.2 * clean.detach().std())
    return (1 - weight) * clean + weight * blended + noise


def _embedded(embed: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
    """Embeddings of ``ids``, shape (ids, width)."""
    embedded: torch.Tensor = embed(ids.to(embed.weight.device))
    return embedded


CopyItem = tuple[CopyTask, list[int]]  # and the token ids of its text


class CopyObjective(Objective[CopyItem]):
    """Cross-entropy on the text to repeat and its end of sequence, averaged over target tokens."""

    figure_names = ("correct", "targets")

    def __init__(
        self, training: LlmTraining, model: Any, builder: PromptBuilder, precision: Precision
    ) -> None:
        self.training, self.model, self.builder = training, model, builder
        self.precision = precision
        self._accuracy = math.nan  # of the last step
        self._words = sorted({word for text in training.texts for word in text.lower().split()})

    def batch(self, step: int) -> StepBatch[CopyItem]:
        """The tasks of a step."""
        tasks = draw_tasks(self.training, self._words, step)
        items = [(task, self.builder.encode(task.text)) for task in tasks]
        return StepBatch(items, len(items), sum(len(ids) + 1 for _, ids in items))

    def loss(
        self, micro_batch: list[CopyItem], batch: StepBatch[CopyItem], step: int
    ) -> MicroBatchLoss:
        """Cross-entropy of a micro-batch, divided by the target tokens of the step."""
        embed = self.model.get_input_embeddings()
        first_task = micro_batch[0][0]
        torch.manual_seed(seed_of("dropout", self.training.settings.seed, step, first_task.seed))
        speech = [speech_embeddings(embed, ids, task) for task, ids in micro_batch]
        copies = collate(self.builder, [ids for _, ids in micro_batch], speech=speech)
        with self.precision.autocast():
            output = predict_targets(self.model, interleave(embed, copies, speech))
        figures = {"correct": output.num_correct, "targets": output.num_targets}
        return MicroBatchLoss(output.loss / batch.num_targets, figures)

    def after_step(self, step: int, batch: StepBatch[CopyItem], result: StepResult) -> None:
        """Keeps the share of target tokens that the LLM ranks first, for the progress display."""
        self._accuracy = result.figures["correct"] / result.figures["targets"]

    def note(self) -> str:
        """The share of target tokens that the LLM ranks first."""
        return f"next-token accuracy {self._accuracy:.3f}"
