"""The CTC head of an encoder's folder alone: its matrix, without the network before it.

In: a folder in HF form. Out: weights, bias and the blank, frozen, in fp32. Cost: reading two
tensors, for an encoder of any size.
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
    """The linear layer from a frame to scores of units."""

    weight: torch.Tensor  # (units, encoder width)
    bias: torch.Tensor  # (units,)
    blank: int  # id of the blank unit


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
        with safe_open(file, framework="pt") as weights:
            tensors |= {
                name: weights.get_tensor(name).float()
                for name in weights.keys()  # noqa: SIM118
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
        "its config.json says that it has a CTC head, and its weights have neither of "
        f"{', '.join(HEADS)}.",
    )
