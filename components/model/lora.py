"""LoRA (Hu et al. 2021, arXiv 2106.09685) on any network: LLM or encoder, on the layers that its
catalogue entry names.

In: a network and the names of the linear layers to adapt. Out: the network itself, with those
layers replaced in place, and PEFT's wrapper around it, which saves the adapter. Cost: milliseconds,
and rank × (inputs + outputs) values a layer.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from components.config.errors import InputError, nearest

ADAPTER_SETTINGS = "adapter_config.json"
# Of PEFT's settings: regular expressions, or ranks by one.
NAME_PATTERNS = ("rank_pattern", "alpha_pattern", "layers_pattern", "exclude_modules")
MAX_NAMES_LISTED = 3  # in an error; the others are counted


def add_adapter(
    network: Any,
    targets: Sequence[str],
    rank: int,
    alpha: int,
    dropout: float,
    seed: int,
    task: str | None = None,
) -> Any:
    """PEFT's wrapper around ``network``, whose linear layers named in ``targets`` (last part of the
    name) are adapted.

    All other weights are frozen. ``task`` is PEFT's name of what the network does, which the saved
    adapter records. Of an encoder give ``SpeechEncoder.model``: Whisper's is the encoder half
    alone, and its decoder has layers of the same names. Raises InputError for a target that matches
    nothing.
    """
    from peft import LoraConfig, get_peft_model

    adapted_layers(network, targets)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets),
        bias="none",
        task_type=task,
    )
    with ignore_peft_warnings():
        return get_peft_model(network, config)


def adapted_layers(network: nn.Module, targets: Sequence[str]) -> list[str]:
    """Names of the layers that ``targets`` adapt; raises InputError for a target that matches
    nothing.
    """
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    endings = {name.split(".")[-1] for name in layers}
    for target in targets:
        if target not in endings:
            raise InputError(
                f"The LoRA target '{target}' matches no layer of {type(network).__name__}.",
                subject=target,
                hint=f"Set lora.targets in the catalogue entry. {nearest(target, endings)}",
            )
    return [name for name in layers if name.split(".")[-1] in targets]


def write_adapter(wrapper: Any, folder: Path) -> None:
    """Saves an adapter in PEFT's format, the same bytes each time."""
    # Without the embeddings: to decide about them PEFT would ask a hub whether the vocabulary grew.
    wrapper.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty model card
    path = folder / ADAPTER_SETTINGS
    config = json.loads(path.read_text())
    # PEFT has them as a set, whose order differs from run to run.
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def read_adapter(network: Any, folder: Path) -> Any:
    """PEFT's wrapper around ``network``, adapted as ``folder`` says; raises InputError where it
    is no adapter in the form of ``write_adapter``.
    """
    from peft import PeftModel

    _check_adapter(folder)
    try:
        with ignore_peft_warnings():
            return PeftModel.from_pretrained(network, str(folder))
    except Exception as error:  # of any type: shapes, safetensors, settings of PEFT
        raise _unfit_adapter(folder, str(error)) from None


def _check_adapter(folder: Path) -> None:
    """Raises InputError for a rank that the weights do not have, whose matrices could take all
    memory, and for patterns of names, whose matching may never end.
    """
    try:
        settings = json.loads((folder / ADAPTER_SETTINGS).read_text())
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
            names = [name for name in weights.keys() if ".lora_A" in name]  # noqa: SIM118
            ranks = {weights.get_slice(name).get_shape()[0] for name in names}
    except (OSError, ValueError, SafetensorError) as error:
        raise _unfit_adapter(folder, str(error)) from None
    if not isinstance(settings, dict) or ranks != {settings.get("r")}:
        raise _unfit_adapter(folder, f"its rank is not that of its weights, {sorted(ranks)}.")
    targets = settings.get("target_modules")
    has_patterns = any(settings.get(key) for key in NAME_PATTERNS)
    if has_patterns or not isinstance(targets, list):
        raise _unfit_adapter(folder, "it names layers by patterns, not in a list.")


def _unfit_adapter(folder: Path, reason: str) -> InputError:
    return InputError(
        f"{folder} does not load as an adapter: {reason}",
        subject=str(folder),
        hint="Take another copy of the model: adapters are read as they were written here.",
    )


@contextmanager
def ignore_peft_warnings() -> Iterator[None]:
    """Hides the warning that PEFT uses a deprecated name of transformers."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", category=FutureWarning, message=".*is_gradient_checkpointing.*"
        )
        yield


def check_gradients(network: nn.Module, where: str, exempt: tuple[str, ...] = ()) -> None:
    """Raises InputError with the names of trainable parameters that a backward pass did not reach.

    The message starts with ``where``; names that start with one of ``exempt`` may have no gradient.
    A gradient of zeros is one: the first matrix of LoRA has it at the start, where the second is
    zero. Cost: a look at each parameter, no arithmetic.
    """
    missing = [
        name
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and parameter.grad is None and not name.startswith(exempt)
    ]
    if not missing:
        return
    names = ", ".join(f"'{name}'" for name in missing[:MAX_NAMES_LISTED])
    if len(missing) > MAX_NAMES_LISTED:
        names += f" and {len(missing) - MAX_NAMES_LISTED} more"
    hint = "Name them in the stage's freeze: the loss does not depend on them."
    if any("lora_" in name for name in missing):
        hint = (
            "Set lora.targets in the catalogue entry to layers that the network calls: of some it "
            "reads the weights alone, as of WavLM's attention (there intermediate_dense and "
            "output_dense are called)."
        )
    raise InputError(
        f"{where}: to be tuned, but without a gradient: {names}.", subject=missing[0], hint=hint
    )
