"""What a curriculum tunes, counted before there are weights: the same names, parts and patterns as
in training.

In: networks without weights, each as a side of the joined model, and the curriculum. Out:
parameters by module of ``components.model.trainable``, of all and of each stage. Of a whole encoder
all that stands below its head counts, although training leaves out what frames do not hang on
(layers above ``features.layer``). Cost: milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from torch import nn

from components.config.training import CurriculumStage
from components.model.trainable import module_of, selected

Counts = Mapping[str, int]  # parameters by module


def adapted_layers(network: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear]:
    """The linear layers that LoRA adapts, by name."""
    return {
        name: each
        for name, each in network.named_modules()
        if isinstance(each, nn.Linear) and name.split(".")[-1] in targets
    }


def sizes_of(side: str, network: nn.Module, body: nn.Module | None = None) -> dict[str, int]:
    """Parameters by plain name of a network as ``side`` of the joined model; of ``body`` alone,
    where it is a part of it.
    """
    inside = {id(each) for each in (body or network).parameters()}
    return {
        f"{side}.{name}": each.numel()
        for name, each in network.named_parameters()
        if id(each) in inside
    }


def lora_sizes_of(
    side: str, network: nn.Module, targets: Sequence[str], rank: int
) -> dict[str, int]:
    """LoRA's (Hu et al. 2021, arXiv 2106.09685): a down- and an up-projection beside each linear
    layer adapted.
    """
    layers = adapted_layers(network, targets)
    down = {
        f"{side}.{name}.lora_A.weight": rank * layer.in_features for name, layer in layers.items()
    }
    return down | {
        f"{side}.{name}.lora_B.weight": rank * layer.out_features for name, layer in layers.items()
    }


def by_module(sizes: Mapping[str, int], names: Sequence[str] | set[str] | None = None) -> Counts:
    """The sum of ``sizes``, or of those of ``names``, by module."""
    found: Counter[str] = Counter()
    for name in sizes if names is None else names:
        found[module_of(name)] += sizes[name]
    return found


def tuned_by(sizes: Mapping[str, int], stage: CurriculumStage) -> set[str]:
    """The names that a stage tunes; raises InputError as training does, for a part or a pattern
    that fits nothing.
    """
    groups = selected(sizes, stage.tune, stage.freeze, f"train, stage '{stage.name}'")
    return {name for names in groups.values() for name in names}
