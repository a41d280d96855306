"""Training of a CTC head (Graves et al. 2006) on frozen frames.

In: frames of the train role, with non-speech that has an empty target, cached or live. Out: a
folder with the head and its tokenizer. Units are lower-case characters; subwords where transcripts
have more characters than frames; tokens of the LLM where a bridge reads the head. Cost: three
forward passes of a network of a million parameters for each frame.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.config.augment import SpecAugment
from components.config.ctc import Ctc
from components.config.errors import InputError
from components.ctc import SHARE_WITHOUT_PATH, TARGETS
from components.ctc.decoder_start import FIRST_UNIT, start_from_decoder
from components.ctc.objective import HeadBatch, HeadItem, HeadObjective
from components.encoder.tokenizers import (
    build_character_tokenizer,
    build_llm_tokenizer,
    build_subword_tokenizer,
)
from components.features.frames import FrameSource
from components.model.encoders.ctc import count_min_frames
from components.model.encoders.registry import read_traits
from components.model.encoders.trained_head import FrameClassifier, save_head
from components.model.folders.description import TOKENS
from components.model.llms.causal import load_tokenizer
from components.model.llms.segmentation import read_unit
from components.optim.loop import LoopSettings, TrainingLoop, build_adamw
from components.optim.precision import Precision
from components.optim.ranks import Ranks
from components.runtime.hashing import seed_of
from components.shards.order import draw_hours, form_batches, shuffle_in_windows
from components.shards.reader import IndexedUtterance

# Characters are given up where more transcripts than this share have more of them than frames. A
# transcript that has (of a fast speaker) counts nothing in the loss; at 25 Hz these are 4 % of the
# embedded ones. Subwords of a small vocabulary are its words, and tell less of the frames.
COARSE_SHARE = 0.1
WEIGHT_DECAY = 0.01  # AdamW's default (Loshchilov and Hutter 2019)
CLIP = 1.0  # of the gradient's norm, as train.clip
WINDOW_SHARDS = 8  # among which utterances are shuffled, as train.window_shards

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadSizes:
    """The network, as ``FrameClassifier`` takes it, and how many units it has at most."""

    hidden: int
    units: int  # subwords or tokens
    blocks: int = 0
    stride: int = 1
    is_conditioned: bool = False
    start: str = "random"
    dropout: float = 0.0


@dataclass(frozen=True)
class HeadTraining:
    """What a process needs to know to train a head; plain data."""

    data: Path
    encoder: Path
    llm: Path | None  # whose tokens are the units; None: characters or subwords
    out: Path  # folder of the finished head
    scratch: Path  # folder of checkpoints
    device: str
    settings: Ctc
    sizes: HeadSizes
    spec_augment: SpecAugment  # of the frames


def train(ranks: Ranks, training: HeadTraining) -> None:
    """Trains the head and, on the first rank, writes it to ``training.out``.

    Raises InputError where the train role has no utterance, and where most transcripts have more
    subwords than frames.
    """
    settings, scratch = training.settings, training.scratch / f"rank-{ranks.rank}"
    scratch.mkdir(parents=True, exist_ok=True)
    where = (training.encoder, training.device, training.data)
    speech = FrameSource("train", *where)
    nonspeech = FrameSource("nonspeech-train", *where, speech.encoder)
    utterances = draw_utterances(speech.utterances, settings)
    texts = [utterance.text.lower() for utterance in utterances]
    tokenizer, targets = build_targets(
        speech, utterances, texts, training, scratch, ranks.rank == 0
    )
    items = [
        *(HeadItem(speech, *pair) for pair in zip(utterances, targets, strict=True)),
        *(HeadItem(nonspeech, utterance, []) for utterance in nonspeech.utterances),
    ]
    plan = plan_batches(items, len(utterances), settings)
    torch.manual_seed(seed_of("ctc-head", settings.seed))
    width = read_traits(training.encoder).width
    sizes = training.sizes
    head = FrameClassifier(
        width,
        sizes.hidden,
        len(tokenizer),
        sizes.blocks,
        sizes.stride,
        is_conditioned=sizes.is_conditioned,
        dropout=sizes.dropout,
    )
    if sizes.start == "decoder":
        units = tokenizer.convert_ids_to_tokens(range(FIRST_UNIT, len(tokenizer)))
        start_from_decoder(head, training.encoder, speech.layer, list(map(read_unit, units)))
    head.to(training.device)
    precision = Precision(settings.precision, training.device)
    optimiser = build_adamw(head, settings.learning_rate, WEIGHT_DECAY)
    loop = LoopSettings(
        stage="ctc",
        task="CTC head",
        num_steps=len(plan),
        warmup=settings.warmup,
        decay="cosine",
        clip=CLIP,
        micro_batches=settings.micro_batches,
        checkpoint_every=settings.checkpoint_every,
        checkpoint=training.scratch / "checkpoint",
        path="ctc",
    )
    head.train()
    objective = HeadObjective(
        head,
        items,
        plan,
        settings.seed,
        training.spec_augment,
        settings.consistency,
        precision,
    )
    TrainingLoop(ranks, head, optimiser, loop, precision).run(objective)
    if ranks.rank == 0:
        save_head(training.out, head, tokenizer)
    ranks.barrier()


def draw_utterances(
    utterances: Sequence[IndexedUtterance], settings: Ctc
) -> list[IndexedUtterance]:
    """At most ``settings.hours`` of speech, drawn at random, in the order of the shards; raises
    InputError where there is none.
    """
    if not utterances:
        raise InputError(
            "ctc: the corpus has no utterance in its role train to train a CTC head on.",
            subject="ctc",
            hint="Give the role a source, name an encoder with a CTC head, or set ctc.epochs to 0.",
        )
    return draw_hours(utterances, settings.hours, "ctc-utterances", settings.seed)


def build_targets(
    source: FrameSource,
    utterances: Sequence[IndexedUtterance],
    texts: Sequence[str],
    training: HeadTraining,
    scratch: Path,
    is_first: bool = True,
) -> tuple[Any, list[list[int]]]:
    """The tokenizer and the units of each text. The first rank logs where they are subwords, and
    writes to ``training.out`` ``TARGETS`` where many texts have more of them than frames, and
    ``TOKENS`` where they are tokens of the LLM. Raises InputError where most have.
    """
    sizes, out = training.sizes, training.out
    steps = [max(1, source.num_frames(item, 0) // sizes.stride) for item in utterances]

    def encode(tokenizer: Any) -> tuple[list[list[int]], float]:
        targets = [list(tokenizer(text).input_ids) if text else [] for text in texts]
        num_long = sum(
            count < count_min_frames(target) for count, target in zip(steps, targets, strict=True)
        )
        return targets, num_long / len(texts)

    if training.llm:
        llm_tokenizer = load_tokenizer(training.llm)
        tokenizer, tokens = build_llm_tokenizer(texts, llm_tokenizer, sizes.units)
        if is_first:
            (out / TOKENS).write_text(json.dumps(tokens) + "\n")
        targets, share = encode(tokenizer)
    else:
        tokenizer = build_character_tokenizer(texts, scratch)
        targets, share = encode(tokenizer)
        if share > COARSE_SHARE:
            if is_first:
                logger.info("ctc: %.0f %% of transcripts have too many characters", 100 * share)
            tokenizer = build_subword_tokenizer(texts, sizes.units)
            targets, share = encode(tokenizer)
    if training.llm:
        setting, or_none = "units of the projector's entry", ""
    else:
        setting, or_none = "ctc.subwords", ", or set ctc.epochs to 0: there is then no CTC baseline"
    if COARSE_SHARE < share <= 0.5 and is_first:
        logger.warning(
            "ctc: %.0f %% of transcripts have more units than frames, and their loss counts "
            "nothing: raise %s",
            100 * share,
            setting,
        )
        record = json.dumps({SHARE_WITHOUT_PATH: round(share, 4)})
        (out / TARGETS).write_text(record + "\n")
    if share > 0.5:
        raise InputError(
            f"ctc: {share:.0%} of the transcripts have more units than frames.",
            subject="projector" if training.llm else "ctc.subwords",
            hint=f"Raise {setting}{or_none}.",
        )
    return tokenizer, targets


def plan_batches(items: Sequence[HeadItem], num_speech: int, settings: Ctc) -> list[HeadBatch]:
    """The batches of all epochs; ``items`` are speech, ``num_speech`` of them, and then
    non-speech.
    """
    share = settings.nonspeech_share
    num_nonspeech = round(num_speech * share / (1 - share))
    speech = [item.utterance for item in items[:num_speech]]
    plan = []
    for epoch in range(settings.epochs):
        seed = seed_of("ctc-batches", settings.seed, epoch)
        durations_s = [item.source.frame_duration_s(item.utterance, epoch) for item in items]
        random = np.random.default_rng(seed)
        drawn = random.permutation(len(items) - num_speech)[:num_nonspeech]
        nonspeech = [num_speech + int(index) for index in drawn]
        groups = shuffle_in_windows(speech, settings.seed, epoch, WINDOW_SHARDS)
        for number, group in enumerate(groups):
            members = [*group, *nonspeech[number :: len(groups)]]
            batches = form_batches(
                members, durations_s, settings.batch_seconds, seed_of(seed, number)
            )
            plan += [HeadBatch(epoch, batch) for batch in batches]
    return plan
