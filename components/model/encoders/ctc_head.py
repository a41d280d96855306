"""The CTC head of an encoder's folder by itself: its matrix, without the network before it.

In: a folder in HF form. Out: weights, bias and the blank, frozen, in fp32. Cost: reading two
tensors, whatever the encoder's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from components.config.heads import check_ctc_units
from components.model.folders.description import has_ctc, unsupported_folder
from components.model.folders.pretrained import read_settings

HEADS = ("ctc_head", "lm_head")  # Parakeet; HuBERT, wav2vec2, WavLM


@dataclass(frozen=True)
class CtcHeadWeights:
    """Units of a frame: ``weight`` (units, encoder width), ``bias`` (units), and the unit
    ``blank``.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    blank: int


def check_ctc(folder: Path, layer: int | str) -> None:
    """Raises InputError where frames of that layer of the folder's encoder can't be read as CTC
    units.
    """
    check_ctc_units(str(folder), has_ctc(folder), layer)


def read_ctc_head(folder: Path) -> CtcHeadWeights:
    """The head of a folder; raises InputError where it has none."""
    check_ctc(folder, "last")
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as held:
            tensors |= {
                name: held.get_tensor(name).float()
                for name in held.keys()  # noqa: SIM118
                if name.partition(".")[0] in HEADS
            }
    for head in HEADS:
        if {f"{head}.weight", f"{head}.bias"} <= tensors.keys():
            weight = tensors[f"{head}.weight"]  # Parakeet's is a convolution over one frame
            return CtcHeadWeights(
                weight.reshape(len(weight), -1),
                tensors[f"{head}.bias"],
                int(read_settings(folder).pad_token_id),
            )
    raise unsupported_folder(
        folder,
        f"its config.json tells of a CTC head, and its weights hold neither of {', '.join(HEADS)}.",
    )
