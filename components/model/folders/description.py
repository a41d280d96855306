"""What the folders of an encoder and of a bridge say: an encoder's ``config.json`` as plain data,
and which files there are.

Starts without torch, and costs milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config.errors import InputError
from components.runtime.artifact import recorded_digests
from components.runtime.json_files import read_json

PROJECTOR = "projector.safetensors"  # of a bridge
MATCHING = "matching.safetensors"  # of a bridge whose matching head was trained
# For a bridge of another commit than the encoder and the LLM beside it.
BASES_HINT = (
    "'git checkout bridge@vN.0.0 && dvc pull models/bridge models/encoder models/llm models/ctc' "
    "brings a promoted bridge with what it was trained on ('dvc checkout' without a remote); 'dvc "
    "repro' trains what params.yaml says."
)
# Of the stage ctc: a head that was trained on frames, and limits that were calculated from dev.
TRAINED_HEAD, LIMITS = "head.safetensors", "limits.json"
TOKENS = "tokens.json"  # beside a head whose units are tokens of an LLM: their ids
HEAD_PREFIX = "head."  # of the tensors of such a head in the projector of the bridge that reads it


@dataclass(frozen=True)
class AcousticLimits:
    """Limits of acoustic evidence that (almost) all dev utterances meet (``components.ctc``)."""

    max_unsupported_units: int  # letters
    silence_gate: float


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
        config: dict[str, Any] = read_json(folder / "config.json", hint="")
    except InputError as error:
        raise unsupported_folder(folder, error) from None
    if not isinstance(config.get("architectures") or [], list):
        raise unsupported_folder(folder, "config.json: 'architectures' is no list.")
    return config


def has_ctc(folder: Path) -> bool:
    """Whether the folder's network ends in a CTC head; raises InputError where it has no
    ``config.json``.
    """
    return any(
        str(name).endswith("ForCTC") for name in read_config(folder).get("architectures") or ()
    )


def has_ctc_for_layer(encoder: Path, layer: int | str) -> bool:
    """Whether frames of that layer are those that the encoder's own CTC head reads."""
    return layer == "last" and has_ctc(encoder)


def has_trained_head(ctc: Path | None) -> bool:
    """Whether the folder of the stage ``ctc`` has a head that was trained on frames. In an export
    the bridge has the weights of one over tokens.
    """
    return ctc is not None and any((ctc / name).is_file() for name in (TRAINED_HEAD, TOKENS))


def has_head(encoder: Path, layer: int | str, ctc: Path | None) -> bool:
    """Whether a CTC head reads the frames of that layer: the encoder's own, or a trained one."""
    return has_trained_head(ctc) or has_ctc_for_layer(encoder, layer)


def has_acoustic_evidence(
    encoder: Path, layer: int | str, bridge: Path, ctc: Path | None = None
) -> bool:
    """Whether a search can have acoustic evidence: from a CTC head, or else from a trained matching
    head.
    """
    return has_head(encoder, layer, ctc) or (bridge / MATCHING).is_file()


def read_limits(ctc: Path | None) -> AcousticLimits | None:
    """The limits in the folder of the stage ``ctc``; None where it calculated none."""
    path = ctc and ctc / LIMITS
    return read_json(path, AcousticLimits) if path and path.is_file() else None


def tunes_encoder(bridge: Path) -> bool:
    """Whether the bridge in this folder was trained together with its encoder."""
    config = read_json(bridge / "config.json")
    return bool(config.get("encoder_run") or config.get("hearing"))  # older folders: hearing


def has_untuned_evidence(bridge: Path, ctc: Path | None) -> bool:
    """Whether acoustic evidence comes from the encoder as it was before the bridge tuned it:
    a trained head reads those frames, and limits in the folder of the stage ``ctc`` are theirs.
    """
    has_limits = ctc is not None and (ctc / LIMITS).is_file()
    return (has_trained_head(ctc) or has_limits) and tunes_encoder(bridge)


def evidence_files(bridge: Path, ctc: Path | None) -> dict[str, str]:
    """Digests of the files of the stage ``ctc`` that a search depends on, by name: those of a
    trained head, and the limits where they decide which frames give the evidence. The figures of
    limits are in the constraint sets.
    """
    if ctc is None:
        return {}
    if has_trained_head(ctc):
        files = recorded_digests(ctc)
        return {name: digest for name, digest in files.items() if name != LIMITS}
    return recorded_digests(ctc) if has_untuned_evidence(bridge, ctc) else {}


def has_own_decoder(folder: Path) -> bool:
    """Whether the folder is a complete Whisper with a tokenizer: it transcribes without an LLM."""
    architectures = read_config(folder).get("architectures") or ()
    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))
    return "WhisperForConditionalGeneration" in architectures and has_tokenizer
