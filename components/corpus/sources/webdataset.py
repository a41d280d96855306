"""Tars in webdataset layout, from anywhere (kind ``webdataset``) → their utterances, or non-speech
clips without text.

In: tars below a data root, named with braces (``train-{000000..000009}.tar``), and the names of the
fields. A sample has one audio member (any rate, number of channels and format that libsndfile
reads) and its transcript in a text member or in its JSON. Out: every sample, accepted or rejected,
and each member that is refused (links, devices, paths out of the tar). Members of other kinds are
counted in the scan and in the log, and never decoded. Recordings stay in their tar: a manifest's
path is ``<tar>/<member>``. Cost: that of ``components.corpus.tar_listing``, once; then a read, or a
request, for each recording.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import soundfile
from pydantic import Field

from components.config.catalogue import SPEECH_ROLES
from components.config.errors import InputError
from components.config.schema import STRICT
from components.corpus import RESULT_VERSION
from components.corpus.files import FileSource, read_sizes
from components.corpus.inspection import InspectedFile, stamp
from components.corpus.listing import AcceptanceRules, ListedRecording, check_recordings
from components.corpus.manifest import Reject
from components.corpus.source import SpeakerPrefix
from components.corpus.sources.table import unique_ids
from components.corpus.tar_listing import TarListing, TarSample, list_tar
from components.corpus.tar_members import SampleFields
from components.runtime.hashing import data_digest
from components.runtime.json_files import read_json
from components.runtime.pool import fan_out
from components.runtime.progress import progress
from components.runtime.s3 import FileRange, StoredFile, as_path
from components.runtime.unit_cache import cached_unit
from components.text.utterance import Utterance

logger = logging.getLogger(__name__)

LISTING = "listing.json"  # in a unit of the work cache
MAX_TARS = 100_000  # of a pattern with braces: 100 TB of tars of 1 GB; more is a slip


@dataclass(frozen=True)
class JsonNames:
    """Names inside the JSON of a sample; ``null`` where it has none."""

    __pydantic_config__ = STRICT
    text: Annotated[str | None, Field(description="Name of the transcript.")] = "text"
    speaker: Annotated[str | None, Field(description="Name of the speaker.")] = "speaker"
    language: Annotated[str | None, Field(description="Name of the language.")] = "language"


@dataclass(frozen=True)
class WebdatasetSettings:
    """Settings of a source of kind ``webdataset``."""

    __pydantic_config__ = STRICT
    kind: Literal["webdataset"]
    root: Annotated[str, Field(description="Name of the data root.")]
    shards: Annotated[
        list[str],
        Field(
            min_length=1,
            description="Paths of the tars below the root; braces name several, as "
            "`train-{000000..000009}.tar`.",
        ),
    ]
    audio: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="Fields that have audio; a sample has one of them."),
    ] = ("flac", "wav", "ogg", "opus", "mp3")
    text: Annotated[
        str | None, Field(description="Field of the transcript; it comes before that of the JSON.")
    ] = "txt"
    json: Annotated[str | None, Field(description="Field of the JSON.")] = "json"
    names: JsonNames = JsonNames()
    dotted_keys: Annotated[
        bool,
        Field(
            description="Whether keys contain dots: they end before the name of a field, not at "
            "the first dot, where webdataset itself ends them."
        ),
    ] = False
    language: Annotated[str, Field(description="Where the JSON of a sample has none.")] = ""
    speaker_prefix: SpeakerPrefix = ""

    @property
    def has_text(self) -> bool:
        """Whether there is a place for transcripts."""
        return self.text is not None or (self.json is not None and self.names.text is not None)

    def fields(self) -> SampleFields:
        """The fields as webdataset has them, in lower case."""
        return SampleFields(
            audio=tuple(name.lower() for name in self.audio),
            text=self.text and self.text.lower(),
            json=self.json and self.json.lower(),
            text_name=self.names.text,
            speaker_name=self.names.speaker,
            language_name=self.names.language,
            has_dotted_keys=self.dotted_keys,
        )


class WebdatasetSource(FileSource[WebdatasetSettings]):
    """A source of kind ``webdataset``."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        super().__init__(WebdatasetSettings, name, role, settings)
        if self.settings.has_text != (role in SPEECH_ROLES):
            requirement = "needs transcripts" if role in SPEECH_ROLES else "takes no text"
            raise InputError(
                f"source '{name}': the role '{role}' {requirement}.",
                subject=name,
                hint="Name the field of the transcript in 'text' or names.text for speech; set "
                "both to null for anything else.",
            )
        fields = [*self.settings.audio, self.settings.text, self.settings.json]
        for field, count in Counter(filter(None, fields)).items():
            if count > 1:
                raise InputError(
                    f"source '{name}': the field '{field}' is named twice.",
                    subject=field,
                    hint="A field is audio, text or JSON.",
                )
        self._listings: dict[str, TarListing] = {}

    @cached_property
    def _tars(self) -> dict[str, int]:
        """Size of each tar in bytes, by its path relative to the root; in the order of the
        patterns.
        """
        paths = [path for pattern in self.settings.shards for path in self._expand(pattern)]
        sizes = read_sizes(self._root, paths)
        for path, count in Counter(paths).items():
            if count > 1 or path not in sizes:
                problem = "is named twice" if count > 1 else "does not exist"
                raise InputError(
                    f"source '{self.name}': {self._root / path} {problem}.",
                    subject=path,
                    hint="See 'shards', and the data root "
                    f"'{self.settings.root}' (LIBRETTO_ROOT_{self.settings.root.upper()}).",
                )
        return {path: sizes[path] for path in paths}

    def _expand(self, pattern: str) -> list[str]:
        """The paths that a pattern with braces names."""
        from braceexpand import braceexpand

        try:
            paths = list(islice(braceexpand(pattern), MAX_TARS + 1))
        except ValueError:  # unbalanced braces
            paths = []
        is_below = all(
            path and not path.startswith("/") and ".." not in PurePosixPath(path).parts
            for path in paths
        )
        if not paths or len(paths) > MAX_TARS or not is_below:
            raise InputError(
                f"source '{self.name}': '{pattern}' is no pattern of at most {MAX_TARS:,} paths "
                "below the data root.",
                subject=pattern,
                hint="Write it as train-{000000..000009}.tar, relative to the data root.",
            )
        return paths

    def _list_tars(self) -> dict[str, TarListing]:
        """The listing of each tar, from the work cache where path, size and time are the same."""
        tars = [path for path in self._tars if path not in self._listings]
        if tars:
            with progress("corpus", f"reading {self.name}", len(tars), "tars") as bar:
                read = partial(read_listing, str(self._root), self.settings.fields())
                for path, listing in fan_out(read, tars):
                    self._listings[path] = listing
                    bar.advance()
        return {path: self._listings[path] for path in self._tars}

    def scan(self) -> dict[str, Any]:
        """Paths and sizes of the tars, members by kind, recordings and their seconds, and the
        digest of all that is read. This opens the audio, which is read with the tar.
        """
        listings = self._list_tars()
        files = [
            file for tar in listings.values() for sample in tar.samples if (file := sample.file)
        ]
        seconds = sum(file.samples / file.rate for file in files if file.rate)
        return {
            "files": [[path, size] for path, size in sorted(self._tars.items())],
            "members": _total_members(listings),
            "recordings": sum(file.rate > 0 for file in files),
            "seconds": round(seconds, 3),
            "digest": data_digest(
                [[path, asdict(listing)] for path, listing in sorted(listings.items())]
            ),
        }

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        """Every sample of every tar, and the members that are refused."""
        listings = self._list_tars()
        self._log_members(listings)
        samples = {
            f"{tar}/{sample.key}.": (tar, sample)  # its stem is the key's, dots and all
            for tar, listing in listings.items()
            for sample in listing.samples
        }
        ids = unique_ids(list(samples))
        recordings = [
            self._list_recording(ids[path], tar, sample) for path, (tar, sample) in samples.items()
        ]
        inspected = {
            recording.path: sample.file
            for recording, (_, sample) in zip(recordings, samples.values(), strict=True)
        }
        accepted, rejected = check_recordings(
            self.name, self._root, recordings, inspected, AcceptanceRules(self.role), inspected
        )
        rejected += [
            Reject(member, f"{tar}/{member}", reason)
            for tar, listing in listings.items()
            for member, reason in listing.refused
        ]
        return accepted, sorted(
            rejected, key=lambda reject: (reject.id, reject.path, reject.reason)
        )

    def _list_recording(self, sample_id: str, tar: str, sample: TarSample) -> ListedRecording:
        settings = self.settings
        return ListedRecording(
            id=sample_id,
            path=f"{tar}/{sample.member or sample.key}",
            text=sample.text,
            speaker=f"{settings.speaker_prefix}{sample.speaker}" if sample.speaker else "",
            language=sample.language or settings.language,
            fault=sample.fault,
        )

    def _log_members(self, listings: dict[str, TarListing]) -> None:
        counts = _total_members(listings)
        logger.info(
            "corpus: %s: %d members in %d tars: %s; all but audio, text and json are never read",
            self.name,
            sum(counts.values()),
            len(listings),
            ", ".join(f"{count} {kind}" for kind, count in counts.items()),
        )
        if executables := sum(listing.executables for listing in listings.values()):
            logger.warning(
                "corpus: %s: %d members are marked as executable; they are data here, and nothing "
                "runs them",
                self.name,
                executables,
            )

    def locate(self, path: str) -> StoredFile:
        """The bytes of a path of the manifest inside their tar."""
        for tar, member in _split_path(path):
            if tar in self._tars:
                if tar not in self._listings:
                    self._listings[tar] = read_listing(str(self._root), self.settings.fields(), tar)
                for sample in self._listings[tar].samples:
                    if sample.member == member:
                        return FileRange(self._root / tar, sample.start, sample.end)
        raise InputError(
            f"source '{self.name}': no tar has '{path}'.",
            subject=path,
            hint="Run 'dvc repro -f corpus'.",
        )


def _split_path(path: str) -> Iterator[tuple[str, str]]:
    """Each division of a path into a tar and a member."""
    parts = path.split("/")
    for index in range(1, len(parts)):
        yield "/".join(parts[:index]), "/".join(parts[index:])


def _total_members(listings: dict[str, TarListing]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for listing in listings.values():
        total.update(listing.members)
    return dict(sorted(total.items()))


def read_listing(root: str, fields: SampleFields, path: str) -> TarListing:
    """The listing of one tar; raises what ``list_tar`` raises."""
    tar = as_path(root) / path
    key = {
        "what": "webdataset",
        "version": RESULT_VERSION,
        "libsndfile": soundfile.__libsndfile_version__,
        "tar": [root, path, *stamp(tar)],
        "fields": asdict(fields),
    }

    def compute(folder: Path) -> None:
        (folder / LISTING).write_text(json.dumps(asdict(list_tar(tar, fields)), indent=0))

    unit = cached_unit("corpus", key, compute, code=__name__)
    content = read_json(unit / LISTING)
    samples = [
        TarSample(**{**sample, "file": InspectedFile(**sample["file"])})
        for sample in content.pop("samples")
    ]
    refused = [(member, reason) for member, reason in content.pop("refused")]
    return TarListing(samples=samples, refused=refused, **content)
