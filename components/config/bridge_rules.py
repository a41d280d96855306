"""Whether a bridge fits the LLM and what is to be tuned.

In: an entry of ``catalogue/projector.yaml``. Out: nothing, or an InputError. Cost: nothing.
"""

from __future__ import annotations

from components.config.errors import InputError
from components.config.projector import (
    CtcEmbeddings,
    DiscreteUnits,
    GatedCrossAttention,
    Projector,
)
from components.config.training import Train


def check_llm_fit(entry: Projector, num_layers: int, *, is_packed: bool) -> None:
    """Raises InputError where the blocks of a bridge do not fit an LLM of ``num_layers`` layers, or
    utterances that are packed into one row.
    """
    if not isinstance(entry, GatedCrossAttention):
        return
    entry.layer_indices(num_layers)
    if is_packed:
        raise InputError(
            f"A bridge of kind '{entry.kind}' attends to one utterance in each row of the LLM.",
            subject="train.packing",
            hint="Set train.packing to false.",
        )


def check_curriculum(entry: Projector, settings: Train) -> None:
    """Raises InputError where a part of the encoder is to be tuned through a bridge that no
    gradient passes, and where a stage reads text beside a bridge without a CTC head, whose texts
    the LLM could rescore.
    """
    part = settings.tuned_encoder_part
    if part and entry.weights is None and isinstance(entry, DiscreteUnits):
        raise InputError(
            f"train: '{part}' is to be tuned, but no gradient passes the nearest centroid of a "
            "frame.",
            subject=part,
            hint="Take it out of train.curriculum, or name a projector of another kind.",
        )
    for stage in settings.curriculum:
        if stage.reads == "text" and not isinstance(entry, CtcEmbeddings):
            raise InputError(
                f"train: stage '{stage.name}' reads text, and the projector has no CTC head whose "
                "texts the LLM could rescore.",
                subject=stage.name,
                hint="Let it read speech, or name a projector of the kind ctc-embeddings.",
            )
