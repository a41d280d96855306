"""What a source is: a module that lists its recordings, and says where their files lie.

A source module of kind ``k`` is ``components/corpus/sources/k.py`` with a class that satisfies
``Source``. Its settings are a dataclass typed from the catalogue entry (``kind`` included), so an
unknown key stops before any work.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from components.config.errors import InputError, nearest
from components.config.schema import parse_as
from components.corpus.manifest import Reject
from components.runtime.s3 import RemotePath
from components.text.utterance import Utterance

S = TypeVar("S")

KINDS = {  # kind → class in the module of that name
    "spoken": "SpokenSource",
    "synthetic": "SyntheticSource",
    "librispeech": "LibriSpeechSource",
    "table": "TableSource",
    "connected": "ConnectedSource",
    "mls": "MlsSource",
    "clips": "ClipsSource",
    "altered": "AlteredSource",
}


class CorpusSource(Protocol):
    """One source of a role. Made by ``Kind(name, role, settings)``; making it touches no audio and
    no data root.
    """

    def scan(self) -> dict[str, Any]:
        """What the source stands on, for ``data/sources``: relative paths and sizes with a digest,
        or a library's version.
        """

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        """Every recording or transcript found, as kept or rejected, each sorted by id."""

    def locate(self, path: str) -> Path | RemotePath:
        """The file of a manifest's relative path; a generated source makes it again where it is
        gone.
        """


@runtime_checkable
class FolderSource(Protocol):
    """A source that reads folders as an archive unpacks to: they can be fetched."""

    def list_folders(self) -> tuple[str, list[str]]:
        """Name of the data root, and the folders below it that are read."""


@runtime_checkable
class GeneratedSource(Protocol):
    """A source that makes its recordings: how much it will be is known from its settings."""

    def estimate_size(self) -> tuple[float, int]:
        """Seconds of audio, about, and the number of recordings."""


@runtime_checkable
class DerivedSource(Protocol):
    """A source that makes its recordings out of those of other sources."""

    def list_origins(self) -> list[CorpusSource]:
        """The sources that it reads; the first is the one whose recordings it changes,
        one by one.
        """

    def estimate_duration_s(self, seconds: float, recordings: int) -> float:
        """Seconds of audio that come out where ``recordings`` of so many seconds in all go in."""


def collect_folders(origin: CorpusSource) -> list[tuple[str, list[str]]]:
    """(data root, folders) of each source with folders that stands in ``origin``, or is it."""
    found = [origin.list_folders()] if isinstance(origin, FolderSource) else []
    return found + [
        each
        for part in (origin.list_origins() if isinstance(origin, DerivedSource) else [])
        for each in collect_folders(part)
    ]


def parse_settings(cls: type[S], name: str, role: str, settings: dict[str, Any]) -> S:
    """The settings of a source as the dataclass of its kind; raises InputError that names the
    source and the key.
    """
    return parse_as(cls, settings, f"catalogue/corpus.yaml: source '{name}' ({role})")


def build_source(name: str, role: str, settings: dict[str, Any]) -> CorpusSource:
    """The source that a catalogue entry describes; raises InputError for an unknown kind or
    setting.
    """
    kind = settings["kind"]
    if kind not in KINDS:
        raise InputError(
            f"source '{name}': unknown kind '{kind}'.", subject=name, hint=nearest(kind, KINDS)
        )
    return getattr(import_module(f"components.corpus.sources.{kind}"), KINDS[kind])(
        name, role, settings
    )
