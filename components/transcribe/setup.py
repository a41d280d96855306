"""What a transcription needs: the three folders of a model, how its encoder is run, and the search.

In: an exported folder (``components/transcribe/export.py``), or the workspace that trained the
model. Out: a ``Setup``. Of an exported folder every file is checked by its digest, and nothing in
it is executed: weights are safetensors, all else is JSON. Cost: one reading of the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from components.config import catalogue
from components.config.decoding import ConstraintSet
from components.config.entries import EncoderNumerics
from components.config.errors import InputError, nearest
from components.config.model_sources import FETCHED
from components.config.params import Params, read_params
from components.config.schema import STRICT, non_default_fields, parse_as
from components.decode.decoder import HEAD, WORKSPACE, ModelFolders
from components.decode.run import enforceable_sets
from components.model.folders.description import (
    BASES_HINT,
    PROJECTOR,
    TOKENS,
    evidence_files,
    has_ctc_for_layer,
    has_head,
    has_trained_head,
    read_limits,
)
from components.model.folders.linked_checkpoint import open_checkpoint
from components.runtime.artifact import RECORD, read_record, recorded_digests
from components.runtime.hashing import data_digest, file_digest
from components.text.hypothesis import CTC
from components.transcribe.bases import EncoderBase, LlmBase, base_folder
from components.transcribe.notices import check_model_folders, has_generated_speech

DESCRIPTION = "libretto.json"  # of an exported folder
FORMAT = 2  # of the description: raised when an older reader would misunderstand it
FORMAT_1_NAMES = {"max_unheard": "max_unsupported_units"}  # of a constraint set, and the name now
# Folders of an export: ctc only if a head was trained, encoder and llm only if it has its bases.
FOLDERS = ("bridge", "ctc", "encoder", "llm")


@dataclass(frozen=True)
class FeatureConfig:
    """How the encoder is run; frames of mode ``cached`` are rounded as the stored ones."""

    __pydantic_config__ = STRICT
    layer: int | Literal["last"]
    mode: Literal["cached", "live"]
    numerics: EncoderNumerics


@dataclass(frozen=True)
class SearchConfig:
    """The constraint sets by name, and the seconds of audio in a batch, padding included."""

    __pydantic_config__ = STRICT
    batch_seconds: float
    sets: dict[str, ConstraintSet]


@dataclass(frozen=True)
class ExportDescription:
    """``libretto.json`` of an exported folder."""

    __pydantic_config__ = STRICT
    format: int
    encoder: EncoderBase
    llm: LlmBase
    features: FeatureConfig
    decode: SearchConfig
    files: dict[str, str]  # SHA-256 by relative path, of all but the card and this file
    generated_speech: bool = False  # all training speech had generated voices


@dataclass(frozen=True)
class Setup:
    """A model to transcribe with."""

    folders: ModelFolders
    features: FeatureConfig
    decode: SearchConfig
    generated_speech: bool = False  # all training speech had generated voices

    @property
    def has_ctc(self) -> bool:
        """Whether a CTC head reads the frames: the encoder's own, or a trained one."""
        return has_head(self.folders.encoder, self.features.layer, self.folders.ctc)

    def constraints(self, name: str) -> ConstraintSet | None:
        """The constraint set of that name, None for the encoder's own text; raises InputError for
        an unknown name.
        """
        if name != CTC and name not in self.decode.sets:
            raise InputError(
                f"The model has no constraint set '{name}'.",
                subject=name,
                hint=nearest(name, [*self.decode.sets, CTC]),
            )
        return None if name == CTC else self.decode.sets[name]

    @property
    def head_files(self) -> dict[str, str]:
        """Digests of the files of the stage ``ctc`` that transcripts depend on; none where the
        encoder's own head reads the frames of the bridge.
        """
        return evidence_files(self.folders.bridge, self.folders.ctc)

    def default_set(self) -> str:
        """The name of the set that is used if none is named: ``constrained``, else the first."""
        return "constrained" if "constrained" in self.decode.sets else next(iter(self.decode.sets))


def load_setup(folder: Path | None) -> Setup:
    """The setup of an exported folder, or of the workspace if ``folder`` is None; raises InputError
    if it is incomplete.
    """
    if folder is not None:
        return export_setup(folder)
    check_model_folders(WORKSPACE.encoder, WORKSPACE.llm, WORKSPACE.bridge, HEAD)
    return workspace_setup()


def workspace_setup() -> Setup:
    """The model of the current folder, as ``params.yaml`` says; raises InputError if the bridge was
    trained on other frames, and if the CTC head is missing or for other frames.
    """
    params = read_params()
    record = read_record(WORKSPACE.bridge)
    settings = params.features
    numerics = settings.numerics(catalogue.encoder(params.encoder))
    features = FeatureConfig(settings.layer, settings.mode, numerics)
    trained = record["inputs"].get("train", {}).get("key")  # a released bridge has none
    if trained and (trained["layer"], trained["numerics"]) != (
        features.layer,
        non_default_fields(features.numerics),
    ):
        raise InputError(
            f"{WORKSPACE.bridge} was trained on other frames than params.yaml and the catalogue "
            "say.",
            subject=str(WORKSPACE.bridge),
            hint="Run 'dvc repro', or set them back.",
        )
    _check_head(params, features)
    sets = enforceable_sets(params.decode.sets, True, read_limits(HEAD))
    search = SearchConfig(params.decode.batch_seconds, sets)
    # Limits that no set asks for any more decide nothing.
    needs_limits = any(limits.needs_calibration for limits in params.decode.sets.values())
    folders = replace(
        WORKSPACE,
        encoder=open_checkpoint(WORKSPACE.encoder),
        ctc=HEAD if needs_limits or has_trained_head(HEAD) else None,
    )
    return Setup(folders, features, search, has_generated_speech(params.corpus))


def _check_head(params: Params, features: FeatureConfig) -> None:
    """Raises InputError where the folder of the stage ``ctc`` is missing, or its head or limits are
    not those of the encoder, the frames and the share that the workspace has now.

    Without this, limits in letters would act on tokens of the matching head, or on evidence that
    they do not belong to.
    """
    record, encoder = read_record(HEAD), recorded_digests(WORKSPACE.encoder)
    inputs, head = record["inputs"], record["head"]
    keys = [inputs[role]["key"] for role in ("train", "dev") if role in inputs]
    encoders = [inputs["encoder"]] if "encoder" in inputs else []
    if any(digests != encoder for digests in (*encoders, *(key["encoder"] for key in keys))):
        raise InputError(
            f"{HEAD} was made with another encoder than {WORKSPACE.encoder} has.",
            subject=str(HEAD),
            hint=BASES_HINT,
        )
    frames = (features.layer, non_default_fields(features.numerics))
    has_own_head = has_ctc_for_layer(open_checkpoint(WORKSPACE.encoder), features.layer)
    # Of a bridge that reads a head over tokens: the encoder's own is not used.
    needs_own_head = has_own_head and not (HEAD / TOKENS).is_file()
    if (head == "own") != needs_own_head or any(
        (key["layer"], key["numerics"]) != frames for key in keys
    ):
        raise InputError(
            f"{HEAD} is for other frames than params.yaml and the catalogue say (layer, numerics).",
            subject=str(HEAD),
            hint="Run 'dvc repro', or set them back.",
        )
    needs_limits = any(limits.needs_calibration for limits in params.decode.sets.values())
    share = record["parameters"].get("calibration")  # None: there are no limits
    if needs_limits and head != "none" and share != params.ctc.calibration:
        actual = "has no limits" if share is None else f"has limits of the share {share:g}"
        raise InputError(
            f"{HEAD} {actual}, but a limit is 'calibrated' and ctc.calibration is "
            f"{params.ctc.calibration:g}.",
            subject="ctc.calibration",
            hint="Run 'dvc repro ctc', or set them back.",
        )


def export_setup(folder: Path) -> Setup:
    """The model of an exported folder. Base checkpoints that are not in it are read from
    LIBRETTO_MODELS or fetched from the hub.

    Raises InputError for a folder without a model, for a file that is not the exported one, and for
    a base that cannot be found; TransientError if the network fails.
    """
    folder = folder.resolve()
    description = read_description(folder)
    check_files(folder, description.files)
    encoder, llm = (
        base_folder(stage, base, folder / stage, _files_below(description.files, stage))
        for stage, base in (("encoder", description.encoder), ("llm", description.llm))
    )
    folders = ModelFolders(folder / "bridge", encoder, llm, folder / "ctc")
    return Setup(folders, description.features, description.decode, description.generated_speech)


def model_keys(folder: Path | None) -> tuple[str, str]:
    """Digests of all that shapes the transcripts of a model, wherever its folder is: that of this
    version, and that of the versions that wrote format 1.
    """
    fields = _transcript_fields(folder)
    return data_digest(fields), data_digest(_to_format_1(fields))


def _transcript_fields(folder: Path | None) -> dict[str, Any]:
    """All that shapes the transcripts of a model, as plain data."""
    if folder is not None:
        fields: dict[str, Any] = non_default_fields(read_description(folder))
        fields.pop("generated_speech", None)  # it shapes no transcript
        return fields
    setup = workspace_setup()
    folders = (WORKSPACE.bridge, WORKSPACE.encoder, WORKSPACE.llm)
    head = {str(HEAD): setup.head_files} if setup.head_files else {}
    return {
        "files": {**{str(path): recorded_digests(path) for path in folders}, **head},
        "features": non_default_fields(setup.features),
        "decode": non_default_fields(setup.decode),
    }


def _files_below(files: Mapping[str, str], folder: str) -> dict[str, str]:
    """The digests of the files in a folder of an export, by their names in that folder."""
    return {
        name.removeprefix(f"{folder}/"): digest
        for name, digest in files.items()
        if name.startswith(f"{folder}/")
    }


def read_description(folder: Path) -> ExportDescription:
    """``libretto.json`` of a folder; raises InputError if it is missing, of another format, or has
    a wrong entry.
    """
    path = folder / DESCRIPTION
    try:
        data: Any = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        if (folder / PROJECTOR).is_file():
            raise InputError(
                f"{folder} is a bridge alone, without its encoder and its LLM.",
                subject=str(folder),
                hint=f"{BASES_HINT} The model of the workspace needs no --model.",
            ) from None
        raise InputError(
            f"{folder} is no exported model: it has no readable {DESCRIPTION}.",
            subject=str(folder),
            hint="'libretto export DIR' writes one.",
        ) from None
    if isinstance(data, dict) and data.get("format") == 1:
        data = _from_format_1(data)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InputError(
            f"{path} is not of format {FORMAT}.",
            subject=str(path),
            hint="Use the version of the package that wrote it.",
        )
    description = parse_as(ExportDescription, data, str(path))
    if not description.decode.sets or description.decode.batch_seconds <= 0:
        raise InputError(
            f"{path} has no constraint set, or no positive batch_seconds.",
            subject=str(path),
            hint="Export the model again.",
        )
    return description


def _from_format_1(data: dict[str, Any]) -> dict[str, Any]:
    """A description of format 1, which has older names, in the current format."""
    data = {**data, "format": FORMAT}
    if "hearing" in data:
        data["features"] = data.pop("hearing")
    decode = data.get("decode")
    if isinstance(decode, dict) and isinstance(decode.get("sets"), dict):
        sets = {
            name: {FORMAT_1_NAMES.get(key, key): value for key, value in fields.items()}
            for name, fields in decode["sets"].items()
            if isinstance(fields, dict)
        }
        data["decode"] = {**decode, "sets": {**decode["sets"], **sets}}
    return data


def _to_format_1(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of ``_transcript_fields`` as format 1 names them."""
    older_names = {name: older for older, name in FORMAT_1_NAMES.items()}
    sets = {
        name: {older_names.get(key, key): value for key, value in limits.items()}
        for name, limits in fields["decode"]["sets"].items()
    }
    older = {**fields, "hearing": fields["features"], "decode": {**fields["decode"], "sets": sets}}
    del older["features"]
    return older | ({"format": 1} if "format" in older else {})


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Raises InputError if the model's files in ``folder`` are not the exported ones, by name and
    content; ``files`` are the digests of the description.
    """
    paths = {
        path.relative_to(folder).as_posix(): path
        for name in FOLDERS
        for path in (folder / name).rglob("*")
        if path.is_file() and path.name != RECORD
    }
    for name in sorted(paths.keys() ^ files.keys()):
        raise InputError(
            f"{folder}: {name} is {'not part of the export' if name in paths else 'missing'}.",
            subject=name,
            hint="Copy the exported folder again.",
        )
    for name, path in paths.items():
        # whatever its digest: a model contains no code
        if not FETCHED.fullmatch(path.name):
            raise InputError(
                f"{folder}: {name} is no file of a model.",
                subject=name,
                hint="Use models only from sources that you trust.",
            )
        if file_digest(path) != files[name]:
            raise InputError(
                f"{folder}: {name} is not the file that was exported.",
                subject=name,
                hint="Copy the exported folder again.",
            )
