"""Checks of CTC heads before any work: whether the encoder and the layer serve what reads CTC
units.

In: parameters, and whether the encoder ends in a CTC head. Out: nothing, or InputError. Cost:
microseconds.
"""

from __future__ import annotations

from components.config import catalogue
from components.config.errors import InputError
from components.config.model_sources import (
    EncoderSource,
    ForeignSource,
    TrainedEncoderSource,
)
from components.config.params import Params

COMPRESSOR_KIND = "ctc-compressor"  # the kind of bridge that reads CTC units


def has_ctc_by_entry(source: EncoderSource) -> bool | None:
    """Whether an encoder of this source ends in a CTC head; None where only its ``config.json``
    tells.
    """
    if isinstance(source, TrainedEncoderSource):
        return True
    if not isinstance(source, ForeignSource):
        return False
    if not source.shape:
        return None
    return any(str(name).endswith("ForCTC") for name in source.shape.get("architectures") or ())


def check_ctc_heads(params: Params, has_head: bool | None = None) -> None:
    """Raises InputError where the bridge or the loss needs CTC units that the encoder does not
    give.

    ``has_head`` says whether the encoder has a head; with None its catalogue entry decides, and
    where the entry does not tell, nothing is raised.
    """
    name, projector = params.encoder, catalogue.projector(params.projector)
    if has_head is None:
        has_head = has_ctc_by_entry(catalogue.encoder(name).source)
    if projector.kind == COMPRESSOR_KIND:
        check_ctc_units(f"encoder '{name}'", has_head is not False, params.features.layer)
    if projector.weights is None:
        check_ctc_weight(f"encoder '{name}'", has_head is not False, params.train.ctc_weight)


def check_ctc_units(owner: str, has_head: bool, layer: int | str) -> None:
    """Raises InputError where frames of that layer of an encoder can't be read as CTC units;
    ``owner`` names the encoder.
    """
    if not has_head:
        raise InputError(
            f"The projector reads CTC units, and {owner} has no CTC head.",
            subject="projector",
            hint=f"Name an encoder with a CTC head, or a projector that is no {COMPRESSOR_KIND}.",
        )
    if layer != "last":
        raise InputError(
            f"The projector reads CTC units, and features.layer is {layer}: the CTC head reads "
            "the last layer alone.",
            subject="features.layer",
            hint="Set features.layer to last.",
        )


def check_ctc_weight(owner: str, has_head: bool, weight: float) -> None:
    """Raises InputError where the loss of a CTC head has a weight and the encoder has no such
    head; ``owner`` names the encoder.
    """
    if weight and not has_head:
        raise InputError(
            f"{owner} has no CTC head, and train.ctc_weight is {weight:g}.",
            subject="train.ctc_weight",
            hint="Set it to 0, or name an encoder with a CTC head.",
        )
