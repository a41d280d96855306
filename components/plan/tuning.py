"""Parameters that a curriculum tunes, counted before there are weights: by the names, parts and
patterns of training.

In: parameters of each tensor, by the name that it has in the joined model. Out: sums by module of
``components.model.trainable``. Of an encoder tuned as a whole, all below its head counts, although
training leaves out what frames do not depend on (layers above ``features.layer``). Cost:
milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from components.config.training import CurriculumStage
from components.model.trainable import module_of, select_parameters
from components.plan.sizes import LayerSizes

ModuleCounts = Mapping[str, int]  # parameters by module


def joined_sizes(side: str, parameters: Mapping[str, int]) -> dict[str, int]:
    """Parameters of each tensor of a network as ``side`` of the joined model."""
    return {f"{side}.{name}": count for name, count in parameters.items()}


def lora_sizes(side: str, layers: LayerSizes, targets: Sequence[str], rank: int) -> dict[str, int]:
    """Parameters of LoRA's tensors (Hu et al. 2021, arXiv 2106.09685): a down- and an up-projection
    beside each linear layer whose name ends in one of ``targets``.
    """
    adapted = {
        name: widths for name, widths in layers.linear.items() if name.split(".")[-1] in targets
    }
    down = {f"{side}.{name}.lora_A.weight": rank * inputs for name, (inputs, _) in adapted.items()}
    up = {f"{side}.{name}.lora_B.weight": rank * outputs for name, (_, outputs) in adapted.items()}
    return down | up


def sum_by_module(sizes: Mapping[str, int], names: Iterable[str] | None = None) -> ModuleCounts:
    """The sum of ``sizes``, or of those of ``names``, by module."""
    counts: Counter[str] = Counter()
    for name in sizes if names is None else names:
        counts[module_of(name)] += sizes[name]
    return counts


def tuned_names(sizes: Mapping[str, int], stage: CurriculumStage) -> set[str]:
    """Names of the tensors that a stage tunes; raises InputError as training does, for a part or a
    pattern that matches nothing.
    """
    parts = select_parameters(sizes, stage.tune, stage.freeze, f"train, stage '{stage.name}'")
    return {name for names in parts.values() for name in names}
