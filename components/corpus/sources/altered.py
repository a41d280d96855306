"""Another source's recordings under one condition (kind ``altered``): noise, another tempo, an end
cut off, or noise before and after (``components.audio.condition``).

In: the settings of a source of any kind, and exactly one condition. Out: its recordings, altered,
as 16 kHz FLAC in the work cache, the same bytes each time. Id ``<id>-<condition>``; text, speaker
and language stay. What the original source refuses is refused here, and so is a recording of which
the condition leaves nothing. The noise of an utterance depends on the seed and its id alone: it is
the same at every ratio.

With ``cut`` the reference is the words that end, by their characters, within the share that is
kept. A voice does not distribute its characters evenly over time, so a word at the cut may count
for or against a system, and does so for every system alike. A text without spaces is one word here.
Cost: about 100 s of audio a second and core with a tempo, 500 s with noise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import soundfile
from pydantic import Field

from components.audio.condition import (
    ALTERED_KIND,
    CONDITION_KINDS,
    MARGIN_DB_RANGE,
    Condition,
)
from components.audio.distortion import apply_condition, read_clip
from components.audio.sound import RATE, BrokenSound, encode_flac, is_silent
from components.config.catalogue import SPEECH_ROLES
from components.config.errors import InputError
from components.config.ranges import Seed
from components.config.schema import STRICT, Unit
from components.corpus import RESULT_VERSION
from components.corpus.generation.blocks import locate_generated
from components.corpus.listing import SILENT
from components.corpus.manifest import Reject, altered_path
from components.corpus.source import CorpusSource, build_source, parse_settings
from components.runtime.hashing import data_digest
from components.runtime.json_files import read_json
from components.runtime.pool import fan_out
from components.runtime.progress import progress
from components.runtime.s3 import StoredFile
from components.runtime.unit_cache import cached_unit, key_digest_of, unit_digests
from components.text.utterance import Utterance

BLOCK = 64  # recordings in a unit of the work cache: a few seconds of work
LISTING = "listing.json"  # in a unit: number of samples, or why nothing is left, by original id
NO_WORD = "cut: no word ends within the share that is kept"


@dataclass(frozen=True)
class AlteredSettings:
    """Settings of a source of kind ``altered``; exactly one of ``snr_db``, ``tempo``, ``cut`` and
    ``margin_seconds``.
    """

    __pydantic_config__ = STRICT
    kind: Literal["altered"]
    source: Annotated[
        dict[str, Any], Field(description="Settings of the source whose recordings are altered.")
    ]
    name: Annotated[
        str,
        Field(description="Of that source, which its ids may begin with; empty: of this source."),
    ] = ""
    seed: Annotated[Seed, Field(description="Seed of the noise.")] = 1
    noise: Annotated[
        dict[str, Any] | None,
        Field(description="Settings of a source of noise; null: it is generated."),
    ] = None
    snr_db: Annotated[
        float | None,
        Unit("dB"),
        Field(description="Power of the recording over that of the noise, over its full length."),
    ] = None
    tempo: Annotated[float | None, Field(description="Factor, 0.5 to 2.")] = None
    cut: Annotated[
        float | None, Field(description="Share of the audio that stays, from its beginning on.")
    ] = None
    margin_seconds: Annotated[
        float | None,
        Unit("s"),
        Field(description="Noise before the recording, and as much after it."),
    ] = None
    # Clearly audible, and 17 dB below the embedded voices, so that it is no speech.
    margin_db: Annotated[
        float,
        Unit("dB of full scale"),
        Field(description="Root mean square of that noise."),
    ] = -40.0


@dataclass(frozen=True, eq=False)
class AlteredBlock:
    """One block of recordings to alter. Where their files and the clips of noise are is not a part
    of its key.
    """

    condition: Condition
    originals: list[Utterance]
    paths: list[StoredFile]  # of the originals
    noise_paths: list[StoredFile] | None  # None: noise is generated
    refuses_silence: bool
    key: dict[str, Any]


class AlteredSource:
    """A source of kind ``altered``."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        self.name, self.role = name, role
        self.settings = parse_settings(AlteredSettings, name, role, settings)
        self._condition = _parse_condition(name, self.settings)
        self._original = _build_origin(
            name, "source", self.settings.name or name, role, self.settings.source
        )
        noise = self.settings.noise
        self._noise = (
            None if noise is None else _build_origin(name, "noise", f"{name}-noise", "noise", noise)
        )

    def list_origins(self) -> list[CorpusSource]:
        """The source whose recordings are altered, and that of the noise if there is one."""
        return [self._original, *([self._noise] if self._noise else [])]

    def estimate_duration_s(self, duration_s: float, num_recordings: int) -> float:
        """Seconds that come out where ``num_recordings`` of ``duration_s`` in all go in."""
        return self._condition.altered_duration_s(duration_s, num_recordings)

    def scan(self) -> dict[str, Any]:
        """Digests of the scans of the original source and of the noise; the files of the former,
        if it has some.
        """
        scan = self._original.scan()
        digests = {"of": scan["digest"]}
        if self._noise:
            digests["noise"] = self._noise.scan()["digest"]
        files = {"files": scan["files"]} if "files" in scan else {}
        return {**digests, **files, "digest": data_digest(digests)}

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        """The altered recordings, and what the original source refused or the condition left
        nothing of.
        """
        originals, refused = self._original.list_utterances()
        rejected = [self._reject(reject.id, reject.path, reject.reason) for reject in refused]
        rejected += [
            self._reject(original.id, original.path, NO_WORD)
            for original in originals
            if original.text and not self._altered_text(original)
        ]
        accepted = []
        for block, unit in self._generate(originals):
            listing, digests = read_json(unit / LISTING), unit_digests(unit)
            for original in block.originals:
                if reason := listing["refused"].get(original.id):
                    rejected.append(self._reject(original.id, original.path, reason))
                    continue
                path = altered_path(original)
                accepted.append(
                    Utterance(
                        id=self._altered_id(original.id),
                        split=self.role,
                        speaker=original.speaker,
                        language=original.language,
                        path=f"{key_digest_of(unit)}/{path}",
                        sample_rate=RATE,
                        samples=listing["samples"][original.id],
                        text=self._altered_text(original),
                        sha256=digests[path],
                    )
                )
        return (
            sorted(accepted, key=lambda utterance: utterance.id),
            sorted(rejected, key=lambda reject: (reject.id, reject.path, reject.reason)),
        )

    def locate(self, path: str) -> Path:
        """The file of a path of the manifest, generated again if it is gone."""
        return locate_generated(
            path, lambda: self._generate(self._original.list_utterances()[0]), code=__name__
        )

    def _altered_id(self, original_id: str) -> str:
        return f"{original_id}-{self._condition.label()}"

    def _reject(self, original_id: str, path: str, reason: str) -> Reject:
        return Reject(self._altered_id(original_id), path, reason)

    def _altered_text(self, original: Utterance) -> str:
        if self._condition.name != "cut":
            return original.text
        return truncate_text(original.text, self._condition.value)

    def _generate(self, originals: list[Utterance]) -> list[tuple[AlteredBlock, Path]]:
        """Each block with its unit of the work cache, generated where it is not there."""
        usable = [
            original for original in originals if not original.text or self._altered_text(original)
        ]
        blocks = self._divide(usable)
        units = {}
        with progress("corpus", f"altering {self.name}", len(usable), "recordings") as bar:
            for block, unit in fan_out(_generate_block, blocks):
                units[block.originals[0].id] = unit
                bar.advance(len(block.originals))
        return [(block, units[block.originals[0].id]) for block in blocks]

    def _divide(self, originals: Sequence[Utterance]) -> list[AlteredBlock]:
        clips = self._noise.list_utterances()[0] if self._noise else []
        if self._noise and not clips:
            raise InputError(
                f"source '{self.name}': its noise has no clip.",
                subject=self.name,
                hint="See the settings of its 'noise'.",
            )
        noise_paths = [self._noise.locate(clip.path) for clip in clips] if self._noise else None
        refuses_silence = self.role in SPEECH_ROLES
        noise_digest = data_digest([[clip.id, clip.sha256] for clip in clips])
        key = {
            "what": "altered",
            "version": RESULT_VERSION,
            "libraries": {
                "libsndfile": soundfile.__libsndfile_version__,
                "soxr": version("soxr"),
                "numpy": version("numpy"),
            },
            "condition": asdict(self._condition),
            "silence": refuses_silence,
            "noise": noise_digest if noise_paths else "made",
        }
        blocks = []
        for start in range(0, len(originals), BLOCK):
            chunk = list(originals[start : start + BLOCK])
            rows = [[original.id, original.sha256] for original in chunk]
            blocks.append(
                AlteredBlock(
                    condition=self._condition,
                    originals=chunk,
                    paths=[self._original.locate(original.path) for original in chunk],
                    noise_paths=noise_paths,
                    refuses_silence=refuses_silence,
                    key={**key, "rows": rows},
                )
            )
        return blocks


def truncate_text(text: str, share: float) -> str:
    """The words of a text that end within ``share`` of its characters."""
    ends = [word.end() for word in re.finditer(r"\S+", text) if word.end() <= share * len(text)]
    return text[: ends[-1]] if ends else ""


def _generate_block(block: AlteredBlock) -> Path:
    return cached_unit("audio", block.key, partial(_write_block, block), code=__name__)


def _write_block(block: AlteredBlock, folder: Path) -> None:
    num_samples: dict[str, int] = {}
    refused: dict[str, str] = {}
    for original, path in zip(block.originals, block.paths, strict=True):
        try:
            samples = apply_condition(
                read_clip(path), block.condition, block.noise_paths, original.id
            )
            if block.refuses_silence and is_silent(samples):
                raise BrokenSound(SILENT)
        except BrokenSound as error:
            refused[original.id] = str(error)
            continue
        target = folder / altered_path(original)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(encode_flac(samples))
        num_samples[original.id] = len(samples)
    listing = {"samples": num_samples, "refused": refused}
    (folder / LISTING).write_text(json.dumps(listing, indent=0))


def _parse_condition(name: str, settings: AlteredSettings) -> Condition:
    """The one condition that the settings name; raises InputError if they name none or several, or
    if a value is out of range.
    """
    names = [key for key in CONDITION_KINDS if getattr(settings, key) is not None]
    if len(names) != 1:
        raise InputError(
            f"source '{name}': {' and '.join(names) or 'no condition'} "
            f"{'are' if names[1:] else 'is'} set.",
            subject=name,
            hint=f"Set exactly one of {', '.join(CONDITION_KINDS)}.",
        )
    condition = Condition(
        names[0], float(getattr(settings, names[0])), settings.seed, settings.margin_db
    )
    kind = condition.kind
    for key, value, (minimum, maximum) in (
        (kind.name, condition.value, (kind.minimum, kind.maximum)),
        ("margin_db", settings.margin_db, MARGIN_DB_RANGE),
    ):
        if not minimum <= value <= maximum:
            raise InputError(
                f"source '{name}': '{key}' is out of range ({value:g}).",
                subject=name,
                hint=f"Use one from {minimum:g} to {maximum:g}.",
            )
    if settings.noise is not None and not kind.has_noise:
        raise InputError(
            f"source '{name}': '{kind.name}' takes no noise.",
            subject=name,
            hint="Leave 'noise' out.",
        )
    return condition


def _build_origin(
    name: str, key: str, origin_name: str, role: str, settings: dict[str, Any]
) -> CorpusSource:
    """The original source or that of noise; raises InputError if it cannot be one."""
    if "kind" not in settings:
        raise InputError(
            f"source '{name}': '{key}.kind' is missing.",
            subject=name,
            hint="It has no default: set it.",
        )
    if settings["kind"] == ALTERED_KIND:
        raise InputError(
            f"source '{name}': '{key}' is of kind 'altered' itself.",
            subject=name,
            hint="A set has one condition, so that its effect can be measured.",
        )
    if settings.get("rooms"):
        raise InputError(
            f"source '{name}': '{key}' has impulse responses of rooms, which are no sound.",
            subject=name,
            hint="Use clips that are no rooms.",
        )
    return build_source(origin_name, role, settings)
