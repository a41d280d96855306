"""What the folders of an encoder and of a bridge say: an encoder's ``config.json`` as plain data,
and which files there are.

Starts without torch, and costs milliseconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.config.errors import InputError

PROJECTOR = "projector.safetensors"  # of a bridge
MATCHING = "matching.safetensors"  # of a bridge whose matching head was trained
# For a bridge of another commit than the encoder and the LLM beside it.
BASES_HINT = (
    "'git checkout bridge@vN.0.0 && dvc pull models/bridge models/encoder models/llm' brings a "
    "promoted bridge with what it was trained on ('dvc checkout' without a remote); 'dvc repro' "
    "trains what params.yaml says."
)


def unsupported_folder(folder: Path, reason: object) -> InputError:
    """The error for a folder that is no encoder."""
    return InputError(
        f"{folder} does not load as an encoder: {reason}",
        subject=str(folder),
        hint="A folder in HF form with safetensors is needed.",
    )


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` as plain data; raises InputError where there is none."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise unsupported_folder(folder, error) from None
    return config


def has_ctc(folder: Path) -> bool:
    """Whether the folder's network ends in a CTC head; raises InputError where it has no
    ``config.json``.
    """
    return any(name.endswith("ForCTC") for name in read_config(folder).get("architectures") or ())


def has_ctc_for_layer(encoder: Path, layer: int | str) -> bool:
    """Whether frames of that layer are those that the encoder's CTC head reads."""
    return layer == "last" and has_ctc(encoder)


def has_acoustic_evidence(encoder: Path, layer: int | str, bridge: Path) -> bool:
    """Whether a search can have acoustic evidence: from CTC on the layer that frames come from, or
    from a trained matching head.
    """
    return has_ctc_for_layer(encoder, layer) or (bridge / MATCHING).is_file()


def has_own_decoder(folder: Path) -> bool:
    """Whether the folder is a complete Whisper with a tokenizer: it transcribes without an LLM."""
    architectures = read_config(folder).get("architectures") or ()
    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))
    return "WhisperForConditionalGeneration" in architectures and has_tokenizer
