"""What every converter does last: a checkpoint is written in HF form and tried before anything
trusts it.

In: tensors, a configuration, an input. Out: a folder's ``model.safetensors`` and ``config.json``,
or InputError. Cost: the weights in fp32 in memory, a second or two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from components.config.errors import InputError
from components.model.folders.pretrained import read_network


def write_weights(tensors: Mapping[str, torch.Tensor], config: Any, folder: Path) -> None:
    """Writes tensors and a configuration of transformers, as far as it differs from its defaults:
    the version of the library that wrote it changes no digest.
    """
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    values = config.to_diff_dict()
    values.pop("transformers_version", None)
    write_json(folder / "config.json", values)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes plain values, their keys in order."""
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def try_forward(
    folder: Path, loader: Any, build_inputs: Callable[[Any], dict[str, torch.Tensor]], where: str
) -> None:
    """Runs the network that ``loader`` reads on ``build_inputs(its configuration)``.

    Raises InputError, which names ``where``, if a weight is missing, or if an output is not finite.
    """
    network = read_network(folder, loader, torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        logits = network(**build_inputs(network.config)).logits
    if not torch.isfinite(logits).all():
        raise InputError(
            f"{where}: the output of the weights is not finite.",
            subject=where,
            hint="The weights are damaged, or were stored in a dtype that is too small for them: "
            "take another package.",
        )
