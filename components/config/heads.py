"""CTC heads: who wants one, and what that asks of encoder and layer; said before any work, as far
as a catalogue entry tells.

In: parameters, and whether the encoder ends in a CTC head. Out: nothing, or the error with its way
out. Cost: microseconds.
"""

from __future__ import annotations

from components.config import catalogue
from components.config.errors import InputError
from components.config.model_sources import EncoderSource
from components.config.params import Params

COMPRESSOR_KIND = "ctc-compressor"  # the kind of bridge that reads CTC units


def has_ctc_by_entry(source: EncoderSource) -> bool | None:
    """Whether an encoder of this source ends in a CTC head; None where only its ``config.json``
    tells.
    """
    if source.kind == "ctc":
        return True
    if source.kind in ("fbank", "joined"):
        return False
    return (
        any(str(name).endswith("ForCTC") for name in source.shape.get("architectures") or ())
        if source.shape
        else None
    )


def check_ctc_heads(params: Params, has_ctc: bool | None = None) -> None:
    """Raises InputError where the bridge or the loss wants CTC units that the encoder can't give.

    ``there`` says whether the encoder has a head; None asks its catalogue entry, and what that does
    not tell passes.
    """
    name, projector = params.encoder, catalogue.projector(params.projector)
    has_ctc = has_ctc_by_entry(catalogue.encoder(name).source) if has_ctc is None else has_ctc
    if projector.kind == COMPRESSOR_KIND:
        check_ctc_units(f"encoder '{name}'", has_ctc is not False, params.features.layer)
    if projector.weights is None:
        check_ctc_weight(f"encoder '{name}'", has_ctc is not False, params.train.ctc_weight)


def check_ctc_units(owner: str, has_ctc: bool, layer: int | str) -> None:
    """Raises InputError where frames of that layer of an encoder can't be read as CTC units;
    ``whose`` names it.
    """
    if not has_ctc:
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


def check_ctc_weight(owner: str, has_ctc: bool, weight: float) -> None:
    """Raises InputError where the loss of a CTC head is weighed that an encoder does not have;
    ``whose`` names it.
    """
    if weight and not has_ctc:
        raise InputError(
            f"{owner} has no CTC head, and train.ctc_weight is {weight:g}.",
            subject="train.ctc_weight",
            hint="Set it to 0, or name an encoder with a CTC head.",
        )
