"""What the folder of an encoder says of itself: its ``config.json`` as plain data.

What needs no more than this starts without torch, and costs milliseconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.config.errors import InputError


def refused(folder: Path, reason: object) -> InputError:
    """The error for a folder that is no encoder."""
    return InputError(f"{folder} does not load as an encoder: {reason}", unit=str(folder),
                      way_out="A folder in HF form with safetensors is needed.")  # fmt: skip


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` as plain data; raises InputError where there is none."""
    try:
        return json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise refused(folder, error) from None


def has_ctc(folder: Path) -> bool:
    """Whether the folder's network ends in a CTC head; raises InputError where it has no ``config.json``."""
    return any(name.endswith("ForCTC") for name in read_config(folder).get("architectures") or ())


def decodes_by_itself(folder: Path) -> bool:
    """Whether the folder is a whole Whisper with a tokenizer: it writes text without an LLM."""
    whole = "WhisperForConditionalGeneration" in (read_config(folder).get("architectures") or ())
    return whole and any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))
