"""Another source's recordings under one change: noise, tempo, an end cut off, noise before and
after.

In: the settings of a source of any kind, and exactly one change: these are the conditions under
which an LLM-based recogniser is known to fail (Kumar et al., arXiv 2411.03866). Out: its
recordings, changed, as 16 kHz FLAC in the work cache, the same bytes each time. Id
``<id>-<condition>``; text, speaker and language stay. What the source within refuses is refused
here; so is what a change leaves nothing of. An utterance's noise hangs on the seed and its id
alone: it is the same at every ratio.

With ``cut`` the reference is the words that end, by their characters, within the share kept. A
voice does not spread its characters evenly, so a word at the cut may count for or against a system,
and does so for every system alike. Scripts without spaces are one word here. Cost: about 100 s of
audio a second and core with a tempo, 500 s with noise.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import soundfile

from components.audio.condition import CHANGES, RANGES, Condition, apply_condition, clip_at
from components.audio.sound import RATE, BrokenSound, encode_flac, is_silent
from components.config.catalogue import SPEECH_ROLES
from components.config.errors import InputError
from components.config.schema import STRICT
from components.corpus import RESULT_VERSION
from components.corpus.generation.blocks import locate_generated
from components.corpus.listing import SILENT
from components.corpus.manifest import Reject, altered_path
from components.corpus.source import CorpusSource, build_source, parse_settings
from components.runtime.hashing import data_digest
from components.runtime.pool import fan_out
from components.runtime.progress import progress
from components.runtime.s3 import RemotePath
from components.runtime.unit_cache import cached_unit, key_digest_of, unit_digests
from components.text.utterance import Utterance

BLOCK = 64  # recordings in a unit of the work cache: a few seconds of work
LISTING = "listing.json"
NO_WORD = "cut: no word ends within the share that is kept"


@dataclass(frozen=True)
class AlteredSettings:
    """Of a source of kind ``altered``; exactly one of ``snr_db``, ``tempo``, ``cut`` and
    ``around_seconds``.
    """

    __pydantic_config__ = STRICT
    kind: Literal["altered"]
    source: dict[str, Any]  # settings of the source whose recordings are changed
    name: str = ""  # of that source, which its ids may begin with; none: this source's
    seed: int = 1  # of the noise
    noise: dict[str, Any] | None = (
        None  # settings of a source of noise; none: white or pink noise is made
    )
    snr_db: float | None = (
        None  # power of the recording over that of the noise, both over its whole length
    )
    tempo: float | None = None  # factor, 0.5 to 2
    cut: float | None = None  # share of the audio that is kept, from its beginning on
    around_seconds: float | None = None  # of noise before the recording, and as many after it
    # Of that noise, root mean square in dB of full scale: clearly heard, and 17 dB under the
    # embedded voices, so that it is no speech.
    around_db: float = -40.0


@dataclass(frozen=True, eq=False)
class AlteredBlock:
    """One block of recordings to change; where their files and the clips of noise (None: made) lie
    is no part of its key.
    """

    condition: Condition
    rows: list[Utterance]
    files: list[Path | RemotePath]
    noise: list[Path | RemotePath] | None
    silence_refused: bool
    key: dict[str, Any]


class AlteredSource:
    """A source of kind ``altered``."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        self.name, self.role = name, role
        self.settings = parse_settings(AlteredSettings, name, role, settings)
        self._condition = _condition(name, self.settings)
        self._within = _part(name, "source", self.settings.name or name, role, self.settings.source)
        noise = self.settings.noise
        self._noise = (
            None if noise is None else _part(name, "noise", f"{name}-noise", "noise", noise)
        )

    def list_origins(self) -> list[CorpusSource]:
        return [self._within, *([self._noise] if self._noise else [])]

    def estimate_duration_s(self, seconds: float, recordings: int) -> float:
        return self._condition.lengthened(seconds, recordings)

    def scan(self) -> dict[str, Any]:
        """Digests of what the source within and that of noise stand on; the files of the former,
        where it has some.
        """
        within = self._within.scan()
        stands_on = {"of": within["digest"]} | (
            {"noise": self._noise.scan()["digest"]} if self._noise else {}
        )
        files = {"files": within["files"]} if "files" in within else {}
        return {**stands_on, **files, "digest": data_digest(stands_on)}

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        """The changed recordings, and what the source within refused or the change left
        nothing of.
        """
        rows, refused = self._within.list_utterances()
        texts = {row.id: self._text(row) for row in rows}
        rejected = [Reject(self._id(row.id), row.path, row.reason) for row in refused]
        rejected += [
            Reject(self._id(row.id), row.path, NO_WORD)
            for row in rows
            if row.text and not texts[row.id]
        ]
        kept = []
        for job, unit in self._blocks(rows):
            listing, sums = json.loads((unit / LISTING).read_text()), unit_digests(unit)
            for row in job.rows:
                path = altered_path(row)
                if row.id in listing["refused"]:
                    rejected.append(Reject(self._id(row.id), row.path, listing["refused"][row.id]))
                else:
                    kept.append(
                        Utterance(
                            self._id(row.id),
                            self.role,
                            row.speaker,
                            row.language,
                            f"{key_digest_of(unit)}/{path}",
                            RATE,
                            listing["samples"][row.id],
                            texts[row.id],
                            sums[path],
                        )
                    )
        return sorted(kept, key=lambda row: row.id), sorted(
            rejected, key=lambda row: (row.id, row.path, row.reason)
        )

    def locate(self, path: str) -> Path:
        return locate_generated(
            path, lambda: self._blocks(self._within.list_utterances()[0]), code=__name__
        )

    def _id(self, original: str) -> str:
        return f"{original}-{self._condition.label()}"

    def _text(self, row: Utterance) -> str:
        return (
            beginning(row.text, self._condition.value)
            if self._condition.name == "cut"
            else row.text
        )

    def _blocks(self, rows: list[Utterance]) -> list[tuple[AlteredBlock, Path]]:
        """The units of the work cache with the changed recordings, made where they are
        not there.
        """
        wanted = [row for row in rows if not row.text or self._text(row)]
        clips = self._noise.list_utterances()[0] if self._noise else []
        if self._noise and not clips:
            raise InputError(
                f"source '{self.name}': its noise has no clip.",
                subject=self.name,
                hint="See the settings of its 'noise'.",
            )
        noise = [self._noise.locate(clip.path) for clip in clips] if self._noise else None
        silence = self.role in SPEECH_ROLES
        libraries = {
            "libsndfile": soundfile.__libsndfile_version__,
            "soxr": version("soxr"),
            "numpy": version("numpy"),
        }
        key = {
            "what": "altered",
            "version": RESULT_VERSION,
            "libraries": libraries,
            "condition": asdict(self._condition),
            "silence": silence,
            "noise": data_digest([[clip.id, clip.sha256] for clip in clips]) if noise else "made",
        }
        jobs = []
        for start in range(0, len(wanted), BLOCK):
            block = wanted[start : start + BLOCK]
            files = [self._within.locate(row.path) for row in block]
            jobs.append(
                AlteredBlock(
                    self._condition,
                    block,
                    files,
                    noise,
                    silence,
                    {**key, "rows": [[row.id, row.sha256] for row in block]},
                )
            )
        units = {}
        with progress("corpus", f"changing {self.name}", len(wanted), "recordings") as bar:
            for job, unit in fan_out(_block, jobs):
                units[job.rows[0].id] = unit
                bar.advance(len(job.rows))
        return [(job, units[job.rows[0].id]) for job in jobs]


def beginning(text: str, share: float) -> str:
    """The words of a text that end within so much of its characters."""
    ends = [word.end() for word in re.finditer(r"\S+", text) if word.end() <= share * len(text)]
    return text[: ends[-1]] if ends else ""


def _block(job: AlteredBlock) -> Path:
    return cached_unit("audio", job.key, partial(_fill, job), code=__name__)


def _fill(job: AlteredBlock, folder: Path) -> None:
    samples: dict[str, int] = {}
    refused: dict[str, str] = {}
    for row, file in zip(job.rows, job.files, strict=True):
        try:
            sound = apply_condition(clip_at(file), job.condition, job.noise, row.id)
            if job.silence_refused and is_silent(sound):
                raise BrokenSound(SILENT)
        except BrokenSound as reason:
            refused[row.id] = str(reason)
            continue
        target = folder / altered_path(row)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(encode_flac(sound))
        samples[row.id] = len(sound)
    (folder / LISTING).write_text(json.dumps({"samples": samples, "refused": refused}, indent=0))


def _condition(name: str, settings: AlteredSettings) -> Condition:
    """The one change that settings ask for; raises InputError where it is none, more than one, or
    out of range.
    """
    given = [each for each in CHANGES if getattr(settings, each) is not None]
    if len(given) != 1:
        raise InputError(
            f"source '{name}': {' and '.join(given) or 'no change'} "
            f"{'are' if given[1:] else 'is'} given.",
            subject=name,
            hint=f"Give exactly one of {', '.join(CHANGES)}.",
        )
    condition = Condition(
        given[0], float(getattr(settings, given[0])), settings.seed, settings.around_db
    )
    for key, number in ((condition.name, condition.value), ("around_db", settings.around_db)):
        least, most = RANGES[key]
        if not least <= number <= most:
            raise InputError(
                f"source '{name}': '{key}' is out of range ({number:g}).",
                subject=name,
                hint=f"Take one from {least:g} to {most:g}.",
            )
    if settings.noise is not None and not condition.noisy:
        raise InputError(
            f"source '{name}': '{condition.name}' takes no noise.",
            subject=name,
            hint="Leave 'noise' out.",
        )
    return condition


def _part(name: str, key: str, own: str, role: str, settings: dict[str, Any]) -> CorpusSource:
    """The source within or that of noise; raises InputError where it cannot be one."""
    if "kind" not in settings:
        raise InputError(
            f"source '{name}': '{key}.kind' missing.",
            subject=name,
            hint="It has no default: give it.",
        )
    if settings["kind"] == "altered":
        raise InputError(
            f"source '{name}': '{key}' is of kind 'altered' itself.",
            subject=name,
            hint="A set stands under one change, so that what it does can be told.",
        )
    if settings.get("rooms"):
        raise InputError(
            f"source '{name}': '{key}' holds rooms, which are no sound.",
            subject=name,
            hint="Take clips that are no rooms.",
        )
    return build_source(own, role, settings)
