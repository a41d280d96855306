"""The stage: frames → ``models/ctc``, the CTC head that reads them.

An encoder with a head of its own for this layer needs none: the folder then has only its record,
and nothing is computed. Otherwise a head is trained on the frozen frames. Where the encoder is
tuned with the bridge, these are the frames of the encoder as it came: the head is then the baseline
of what training adds, and nothing waits for the bridge. A bridge of CTC embeddings reads the head,
whose units are then tokens of the LLM. If a constraint set has a limit that is
``calibrated``, the folder has the limits that dev gives. Cost: 161 s of a core for 8 h of cached
frames of the smallest encoder; live frames cost a pass of the encoder in each epoch.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.augment import SpecAugment
from components.config.ctc import Ctc
from components.config.errors import InputError
from components.config.projector import CtcEmbeddings
from components.ctc import RESULT_VERSION, SHARE_WITHOUT_PATH, TARGETS
from components.features.key import digest_frames
from components.model.folders.description import has_ctc_for_layer, read_limits
from components.model.folders.linked_checkpoint import open_checkpoint
from components.optim.ranks import Ranks, train_together
from components.runtime.artifact import empty_folder, read_record, recorded_digests, write_record
from components.runtime.json_files import read_json
from components.runtime.settings import device, workers
from components.runtime.stage import Stage
from components.runtime.unit_cache import cached_unit, link_files, unit_digests

DATA, ENCODER, OUT = Path("data"), Path("models/encoder"), Path("models/ctc")
LLM = Path("models/llm")
FEATURES = DATA / "features"
# Of the entry of a bridge that reads the head.
OF_HEAD = ("units", "stride", "hidden", "blocks", "is_conditioned", "start", "dropout")
# Settings that have no effect on the weights.
NOT_OF_TRAINING = ("calibration", "checkpoint_every")
log = logging.getLogger(__name__)


def work(stage: Stage) -> None:
    """Writes the folder; raises InputError where there is no speech to train on, and where most
    transcripts have more units than frames.
    """
    settings = stage.params.ctc
    layer = read_record(FEATURES / "train")["key"]["layer"]
    projector = catalogue.projector(stage.params.projector)
    bridge = projector if isinstance(projector, CtcEmbeddings) else None
    has_own_head = not bridge and has_ctc_for_layer(open_checkpoint(ENCODER), layer)
    if bridge and not settings.epochs:
        raise InputError(
            f"The projector '{stage.params.projector}' reads frames by a CTC head, and ctc.epochs "
            "is 0.",
            subject="ctc.epochs",
            hint="Raise it, or name a projector of another kind.",
        )
    plan = HeadPlan(settings, stage.params.train.spec_augment, bridge)
    head = None if has_own_head or not settings.epochs else _trained_head(plan)
    has_head = has_own_head or head is not None
    sets = stage.params.decode.sets.values()
    needs_limits = has_head and any(constraints.needs_calibration for constraints in sets)
    units = [head] if head else []
    if needs_limits:
        units.append(_limits(settings, head))
    folder = empty_folder(OUT)
    outputs: dict[str, str] = {}
    for unit in units:
        link_files(unit, folder)
        outputs |= unit_digests(unit)
    kind = "own" if has_own_head else "trained" if head else "none"
    write_record(
        folder,
        "ctc",
        parameters={
            **(plan.key() if head else {}),
            **({"calibration": settings.calibration} if needs_limits else {}),
        },
        inputs={
            **(plan.inputs() if head else {"encoder": recorded_digests(ENCODER)}),
            **({"dev": digest_frames(FEATURES / "dev")} if needs_limits else {}),
        },
        outputs=outputs,
        libraries=("torch", "transformers"),
        head=kind,
    )
    _report(stage, kind)


def _report(stage: Stage, kind: str) -> None:
    """Says which head there is, what share of transcripts its training could not use, and the
    limits that were calculated.
    """
    heads = {
        "own": "the encoder has a CTC head of its own",
        "trained": "a CTC head is trained on the frames of the encoder",
        "none": "no CTC head: ctc.epochs is 0",
    }
    log.info("ctc: %s", heads[kind])
    if (path := OUT / TARGETS).is_file():
        share = read_json(path, keys={SHARE_WITHOUT_PATH: float})[SHARE_WITHOUT_PATH]
        stage.facts[SHARE_WITHOUT_PATH] = share
        log.warning("ctc: %.0f %% of transcripts have no path in its training", 100 * share)
    if limits := read_limits(OUT):
        stage.facts["limits"] = asdict(limits)
        log.info(
            "ctc: limits of dev: max_unsupported_units %d, silence_gate %.6g",
            limits.max_unsupported_units,
            limits.silence_gate,
        )


@dataclass(frozen=True)
class HeadPlan:
    """What the weights of a trained head depend on."""

    settings: Ctc
    spec_augment: SpecAugment
    bridge: CtcEmbeddings | None  # which gives the head its sizes, and the LLM's tokens as units

    def key(self) -> dict[str, Any]:
        """The settings, as plain data."""
        settings = asdict(self.settings)
        key = {name: value for name, value in settings.items() if name not in NOT_OF_TRAINING}
        if self.spec_augment.enabled:
            key["spec_augment"] = asdict(self.spec_augment)
        if self.bridge:
            key |= {name: getattr(self.bridge, name) for name in OF_HEAD}
        return key

    def inputs(self) -> dict[str, Any]:
        """Digests of the frames, and of the LLM where its tokens are the units."""
        inputs: dict[str, Any] = {
            role: digest_frames(FEATURES / role) for role in ("train", "nonspeech-train")
        }
        return {**inputs, "llm": recorded_digests(LLM)} if self.bridge else inputs


def _trained_head(plan: HeadPlan) -> Path:
    """The unit of the trained head."""
    settings = plan.settings

    def train(folder: Path) -> None:
        name, encoder = device(), open_checkpoint(ENCODER)
        # On a GPU one process is enough: a step takes milliseconds.
        num_processes = min(workers(), settings.micro_batches) if name == "cpu" else 1
        llm = open_checkpoint(LLM) if plan.bridge else None
        arguments = (folder, encoder, llm, plan, name)
        train_together(_train, arguments, num_processes, settings.threads)

    key = {"version": RESULT_VERSION, "settings": plan.key(), "inputs": plan.inputs()}
    return cached_unit("ctc", key, train, code="components.ctc.training")


def _train(
    ranks: Ranks, folder: Path, encoder: Path, llm: Path | None, plan: HeadPlan, device_name: str
) -> None:
    from components.ctc import training

    resume, settings = folder / "resume", plan.settings
    bridge, masks = plan.bridge, plan.spec_augment
    sizes = training.HeadSizes(settings.hidden, settings.subwords)
    if bridge:
        sizes = training.HeadSizes(
            bridge.hidden,
            bridge.units,
            bridge.blocks,
            bridge.stride,
            bridge.is_conditioned,
            bridge.start,
            bridge.dropout,
        )
    head = training.HeadTraining(
        DATA, encoder, llm, folder, resume, device_name, settings, sizes, masks
    )
    training.train(ranks, head)


def _limits(settings: Ctc, head: Path | None) -> Path:
    """The unit of the limits; ``head`` is the trained head, None for the encoder's own."""

    def calibrate(folder: Path) -> None:
        import torch

        from components.ctc import calibration

        torch.set_num_threads(settings.threads)
        encoder = open_checkpoint(ENCODER)
        calibration.calibrate(folder, DATA, encoder, head, device(), settings.calibration)

    if not any(name.endswith(".tar") for name in digest_frames(FEATURES / "dev")["files"]):
        raise InputError(
            "ctc: a limit is 'calibrated', and the corpus has no utterance in its role dev.",
            subject="decode.sets",
            hint="Give the role a source, or write a figure.",
        )
    key = {
        "version": RESULT_VERSION,
        "share": settings.calibration,
        "head": unit_digests(head) if head else "own",  # that of the frames' encoder
        "threads": settings.threads,
        "dev": digest_frames(FEATURES / "dev"),
    }
    return cached_unit("ctc", key, calibrate, code="components.ctc.calibration")
