"""Whether a bridge fits the LLM and what is to be tuned.

In: an entry of ``catalogue/projector.yaml``. Out: nothing, or an InputError. Cost: nothing.
"""

from __future__ import annotations

from components.config.errors import InputError
from components.config.projector import DiscreteUnits, GatedCrossAttention, Projector


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


def check_tuned_encoder(entry: Projector, part: str | None) -> None:
    """Raises InputError where ``part`` of the encoder is to be tuned through a bridge that no
    gradient passes; None: it is frozen.
    """
    if part and entry.weights is None and isinstance(entry, DiscreteUnits):
        raise InputError(
            f"train: '{part}' is to be tuned, but no gradient passes the nearest centroid of a "
            "frame.",
            subject=part,
            hint="Take it out of train.curriculum, or name a projector of another kind.",
        )
