"""What a transcription needs: the three folders of a model, how its encoder is heard, and the
search.

In: an exported folder (``components/transcribe/export.py``), or the workspace that trained the
model. Out: a ``Setup``. Of an exported folder every file is checked by its digest, and nothing in
it is run: weights are safetensors, all else is JSON. Cost: one reading of the files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.config import catalogue
from components.config.entries import EncoderNumerics
from components.config.errors import InputError, nearest
from components.config.model_sources import FETCHED
from components.config.params import ConstraintSet, read_params
from components.config.schema import STRICT, non_default_fields, parse_as
from components.model.folders.description import has_ctc_for_layer
from components.runtime.artifact import RECORD, read_record, recorded_digests
from components.runtime.hashing import data_digest, file_digest
from components.transcribe.bases import EncoderBase, LlmBase, base_folder

BRIDGE, ENCODER, LLM = Path("models/bridge"), Path("models/encoder"), Path("models/llm")
DESCRIPTION = "libretto.json"  # of an exported folder
FORMAT = 1  # of the description: raised when an older reader would misunderstand it
CTC = "ctc"  # in place of a constraint set: the encoder's own text
FOLDERS = (
    "bridge",
    "encoder",
    "llm",
)  # of an exported folder; the last two where it holds its bases


@dataclass(frozen=True)
class FeatureConfig:
    """How the encoder is run, and whether its frames are rounded as stored ones are."""

    __pydantic_config__ = STRICT
    layer: int | Literal["last"]
    mode: Literal["cached", "live"]
    numerics: EncoderNumerics


@dataclass(frozen=True)
class Search:
    """The constraint sets, and the audio in a batch, padding counted."""

    __pydantic_config__ = STRICT
    batch_seconds: float
    sets: dict[str, ConstraintSet]


@dataclass(frozen=True)
class Description:
    """``libretto.json`` of an exported folder."""

    __pydantic_config__ = STRICT
    format: int
    encoder: EncoderBase
    llm: LlmBase
    hearing: FeatureConfig
    decode: Search
    files: dict[
        str, str
    ]  # SHA-256 by relative path, of all but the card and the description itself


@dataclass(frozen=True)
class Setup:
    """A model to transcribe with."""

    bridge: Path
    encoder: Path
    llm: Path
    hearing: FeatureConfig
    decode: Search

    @property
    def ctc(self) -> bool:
        """Whether the encoder has a CTC head that the frames serve."""
        return has_ctc_for_layer(self.encoder, self.hearing.layer)

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

    def usual(self) -> str:
        """The set that is taken where none is named: ``constrained``, else the first."""
        return "constrained" if "constrained" in self.decode.sets else next(iter(self.decode.sets))


def setup_of(folder: Path | None) -> Setup:
    """The setup of an exported folder, or of the workspace where none is given; raises InputError
    where it is not whole.
    """
    return of_workspace() if folder is None else of_export(folder)


def of_workspace() -> Setup:
    """The model of the current folder, as ``params.yaml`` says; raises InputError where that is not
    what the bridge was trained on.
    """
    params = read_params()
    record = read_record(BRIDGE)
    hearing = FeatureConfig(
        params.features.layer, params.features.mode, catalogue.encoder(params.encoder).numerics
    )
    trained = (
        record["inputs"].get("train", {}).get("key")
    )  # a released bridge was trained elsewhere
    if trained and (trained["layer"], trained["numerics"]) != (
        hearing.layer,
        non_default_fields(hearing.numerics),
    ):
        raise InputError(
            f"{BRIDGE} was trained on other frames than params.yaml and the catalogue say.",
            subject=str(BRIDGE),
            hint="Run 'dvc repro', or set them back.",
        )
    return Setup(
        BRIDGE, ENCODER, LLM, hearing, Search(params.decode.batch_seconds, params.decode.sets)
    )


def of_export(folder: Path) -> Setup:
    """The model of an exported folder. Bases that it does not hold are taken from LIBRETTO_MODELS
    or fetched from the hub.

    Raises InputError for a folder that is none, a file that is not what was exported, and a base
    that is nowhere; TransientError where the network fails.
    """
    folder = folder.resolve()
    described = read_description(folder)
    check_files(folder, described.files)
    encoder, llm = (
        base_folder(stage, base, folder / stage, _below(described.files, stage))
        for stage, base in (("encoder", described.encoder), ("llm", described.llm))
    )
    return Setup(folder / "bridge", encoder, llm, described.hearing, described.decode)


def key_of(folder: Path | None) -> str:
    """What tells one model from another: a digest of all that shapes its transcripts, wherever it
    lies.
    """
    if folder is None:
        setup = of_workspace()
        files = {str(each): recorded_digests(each) for each in (BRIDGE, ENCODER, LLM)}
        return data_digest(
            {
                "files": files,
                "hearing": non_default_fields(setup.hearing),
                "decode": non_default_fields(setup.decode),
            }
        )
    return data_digest(non_default_fields(read_description(folder)))


def _below(files: dict[str, str], folder: str) -> dict[str, str]:
    """The digests of the files in a folder of an export, by their names there."""
    return {
        name.removeprefix(f"{folder}/"): digest
        for name, digest in files.items()
        if name.startswith(f"{folder}/")
    }


def read_description(folder: Path) -> Description:
    """``libretto.json`` of a folder, every entry of it checked."""
    path = folder / DESCRIPTION
    try:
        data: Any = json.loads(path.read_text())
    except (OSError, ValueError):
        raise InputError(
            f"{folder} is no exported model: it has no {DESCRIPTION} that can be read.",
            subject=str(folder),
            hint="'python -m components.transcribe export DIR' writes one.",
        ) from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InputError(
            f"{path} is not of format {FORMAT}.",
            subject=str(path),
            hint="Take the version of the package that wrote it.",
        )
    found = parse_as(Description, data, str(path))
    if not found.decode.sets or found.decode.batch_seconds <= 0:
        raise InputError(
            f"{path} holds no constraint set, or no seconds for a batch.",
            subject=str(path),
            hint="Export the model anew.",
        )
    return found


def check_files(folder: Path, files: dict[str, str]) -> None:
    """Raises InputError where the model's files are not those that were exported, each by its
    bytes.
    """
    there = {
        path.relative_to(folder).as_posix(): path
        for name in FOLDERS
        for path in (folder / name).rglob("*")
        if path.is_file()
    }
    there = {name: path for name, path in there.items() if path.name != RECORD}
    for name in sorted(there.keys() ^ files.keys()):
        raise InputError(
            f"{folder}: {name} is {'not part of the export' if name in there else 'missing'}.",
            subject=name,
            hint="Copy the exported folder anew.",
        )
    for name, path in there.items():
        if not FETCHED.fullmatch(path.name):  # whatever its digest: code has no place here
            raise InputError(
                f"{folder}: {name} is no file of a model.",
                subject=name,
                hint="Take models from whom you trust.",
            )
        if file_digest(path) != files[name]:
            raise InputError(
                f"{folder}: {name} is not the file that was exported.",
                subject=name,
                hint="Copy the exported folder anew.",
            )
