"""Training of the bridge: a curriculum of stages, each from the checkpoint that the stage before it
selected.

In: frames of the roles train, nonspeech-train and dev, and the base checkpoints. Out:
``bridge/`` and ``curve.csv`` in the folder of the training. A run that is killed at any step and
started again ends with the same bits.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from components.config.bridge_rules import check_llm_fit
from components.config.errors import InputError
from components.config.training import SHORT_EPOCHS, Train
from components.features.frames import FrameSource
from components.model.bridges.ctc_embeddings import CtcEmbeddingsBridge, read_token_head
from components.model.bridges.discrete import DiscreteUnitsBridge, read_centroids
from components.model.encoders.encoder import SpeechEncoder
from components.model.encoders.trained_head import TrainedHead
from components.model.llms.causal import check_packing, load_llm
from components.model.model_folder import ModelConfig
from components.model.speech_llm import SpeechLLM, load_tuned_encoder
from components.model.trainable import format_table
from components.optim import recomputation
from components.optim.ranks import Ranks
from components.optim.sharding import decoder_layers, shard
from components.runtime.hashing import seed_of
from components.runtime.unit_cache import Key
from components.train.curve import read_stage_rows, write_curve
from components.train.data import count_short_utterances
from components.train.parts import TABLE, TrainableParts, write_tables
from components.train.stage import RoleSources, StageTraining
from components.train.warm_start import find_start, load_start

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BridgeTraining:
    """What a process needs to know to train a bridge; plain data."""

    data: Path
    encoder: Path
    llm: Path
    units: Path  # of the stage units; read where the bridge needs centroids
    ctc: Path  # of the stage ctc; read where the bridge needs its head
    out: Path
    scratch: Path
    device: str
    settings: Train
    model: ModelConfig
    lora_targets: dict[str, list[str]]  # by the part: lora, encoder-lora
    stage_keys: list[Key]  # of the ends of the stages in the work cache


def train(ranks: Ranks, training: BridgeTraining) -> None:
    """Trains all stages and, on the first rank, writes the model to ``training.out``.

    Raises InputError where a stage, the encoder or the LLM does not fit the settings, where a role
    has no utterance to train on or to select by, and where the loss diverges.
    """
    settings = training.settings
    model = _build_model(training)
    parts = TrainableParts(model, settings, training.lora_targets)
    parts.check()
    if settings.start:
        load_start(model, find_start(settings.start), parts.adapters())
        model.has_matching_head = bool(settings.matching.weight)
    sources = _role_sources(ranks, training, model.encoder)
    _warn_of_short_training(ranks, settings, sources.speech)
    _check_frame_counts(ranks, sources.speech, model.projector.stride)
    num_layers = len(decoder_layers(model.llm.base_model))
    check_llm_fit(training.model.projector, num_layers, is_packed=settings.packing)
    if settings.packing:
        check_packing(model.llm)
    if settings.gradient_checkpointing:
        for network in filter(None, (model.llm, model.encoder and model.encoder.model)):
            recomputation.enable(network)
    if ranks.is_sharded:
        shard(model.llm, ranks.world_size)

    first_step, tables = 0, []
    for index, stage in enumerate(settings.curriculum):
        stage_training = StageTraining(
            ranks, parts, stage, training.scratch, training.device, index, first_step
        )
        rows = parts.parameter_rows(sources.speech.encoder)
        tables.append((stage.name, rows))
        if ranks.rank == 0:
            logger.info("train: parameters in stage '%s':\n%s", stage.name, format_table(rows))
        stage_training.restore(training.stage_keys[index])
        first_step += stage_training.run(sources)
        stage_training.store(training.stage_keys[index])

    model.save(training.out / "bridge", is_writer=ranks.rank == 0)
    if ranks.rank == 0:
        write_tables(tables, training.out / "bridge" / TABLE)
        write_curve(training.out / "curve.csv", read_stage_rows(training.scratch))
    ranks.barrier()


def _build_model(training: BridgeTraining) -> SpeechLLM:
    """Encoder (where it is tuned) and LLM from their folders, the bridge with random weights."""
    llm, tokenizer = load_llm(training.llm, training.model.llm_dtype, training.device)
    encoder = load_tuned_encoder(training.model, training.encoder, training.device)
    torch.manual_seed(seed_of("bridge", training.settings.seed))
    model = SpeechLLM(training.model, llm, tokenizer, encoder).to(training.device)
    model.use_ctc_head_of(training.encoder)
    if isinstance(model.projector, DiscreteUnitsBridge):
        model.projector.set_centroids(read_centroids(training.units))
    if isinstance(model.projector, CtcEmbeddingsBridge):
        model.projector.set_head(*read_token_head(training.ctc))
    model.has_matching_head = bool(training.settings.matching.weight)
    return model


def _role_sources(
    ranks: Ranks, training: BridgeTraining, tuned_encoder: SpeechEncoder | None
) -> RoleSources:
    """Frames of the roles, computed by one encoder where they are live."""

    def source(role: str, encoder: SpeechEncoder | None) -> FrameSource:
        return FrameSource(role, training.encoder, training.device, training.data, encoder)

    speech = source("train", tuned_encoder)
    nonspeech = source("nonspeech-train", speech.encoder)
    dev = source("dev", speech.encoder)
    if not dev.utterances:
        raise InputError(
            "train: the corpus has no utterance in its role dev to select a checkpoint by.",
            subject="dev",
            hint="Give the role a source.",
        )
    reads_text = any(stage.reads == "text" for stage in training.settings.curriculum)
    if reads_text and ranks.is_sharded:
        raise InputError(
            "train: a stage reads text, whose checkpoints ranks that share an LLM can't rescore.",
            subject="train.curriculum",
            hint="Train it in processes that each hold the LLM, or let the stage read speech.",
        )
    head = TrainedHead.load(training.ctc, training.device) if reads_text else None
    return RoleSources(speech, nonspeech, dev, head)


def _warn_of_short_training(ranks: Ranks, settings: Train, speech: FrameSource) -> None:
    """Logs a warning where all stages together see less than half of the speech once."""
    total_s = sum(utterance.duration_s for utterance in speech.utterances)
    frames_s = sum(speech.frame_duration_s(utterance, 0) for utterance in speech.utterances)
    epochs = sum(
        stage.epochs or (stage.steps or 0) * settings.batch_seconds / max(frames_s, 1e-9)
        for stage in settings.curriculum
        if stage.nonspeech_share < 1
    )
    if epochs < SHORT_EPOCHS and ranks.rank == 0:
        logger.warning(
            "train: at most %.3f epochs: a small part of %.0f h of speech is seen. Raise the "
            "lengths in train.curriculum, or put a recipe on ('libretto use' lists them)",
            epochs,
            total_s / 3600,
        )


def _check_frame_counts(ranks: Ranks, speech: FrameSource, stride: float) -> None:
    """Logs how many utterances are shorter than one token of the projector; raises InputError where
    most are.
    """
    num_short = count_short_utterances(
        [speech.num_frames(utterance, 0) for utterance in speech.utterances], stride
    )
    if num_short and ranks.rank == 0:
        logger.warning(
            "train: %d of %d utterances have fewer frames than the %g of one token",
            num_short,
            len(speech.utterances),
            stride,
        )
