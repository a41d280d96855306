"""What a source of a corpus is: an object that lists its recordings and says where their files are.

A kind is one module ``components/corpus/sources/<kind>.py`` and one line of ``KINDS``. The module
has the class of the kind (it satisfies ``CorpusSource``) and the dataclass of its settings, typed
from the catalogue entry (``kind`` included), so that an unknown key stops before any work.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, Protocol, TypeVar, runtime_checkable

from pydantic import Field

from components.config.errors import InputError, nearest
from components.config.schema import parse_as
from components.corpus.manifest import Reject
from components.runtime.s3 import StoredFile
from components.text.utterance import Utterance

T = TypeVar("T")

SpeakerPrefix = Annotated[
    str,
    Field(
        description="Put before each speaker, where two corpora use the same names for different "
        "people."
    ),
]

KINDS = {  # kind, which is also the name of its module → class in that module
    "spoken": "SpokenSource",
    "kokoro": "KokoroSource",
    "piper": "PiperSource",
    "synthetic": "SyntheticSource",
    "librispeech": "LibriSpeechSource",
    "table": "TableSource",
    "connected": "ConnectedSource",
    "mls": "MlsSource",
    "clips": "ClipsSource",
    "webdataset": "WebdatasetSource",
    "altered": "AlteredSource",
}


class CorpusSource(Protocol):
    """One source of a role, created by ``Kind(name, role, settings)``, which touches no audio and
    no data root.
    """

    def scan(self) -> dict[str, Any]:
        """What the source depends on, for ``data/sources``: relative paths and sizes, or the
        version of a library, with a digest.
        """

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        """Every recording or transcript of the source, as accepted or rejected, each sorted by
        id.
        """

    def locate(self, path: str) -> StoredFile:
        """The file of a relative path of the manifest; a generated source generates it again if it
        is gone.
        """


@runtime_checkable
class FolderSource(Protocol):
    """A source that reads folders as an archive unpacks to: they can be fetched."""

    def list_folders(self) -> tuple[str, list[str]]:
        """Name of the data root, and the folders below it that are read."""


@runtime_checkable
class GeneratedSource(Protocol):
    """A source that generates its recordings: its size follows from its settings."""

    def estimate_size(self) -> tuple[float, int]:
        """(seconds of audio, approximate; number of recordings)."""


@runtime_checkable
class DerivedSource(Protocol):
    """A source that derives its recordings from those of other sources."""

    def list_origins(self) -> list[CorpusSource]:
        """The sources that it reads; the first is the one whose recordings it alters one by
        one.
        """

    def estimate_duration_s(self, duration_s: float, num_recordings: int) -> float:
        """Seconds of audio that come out where ``num_recordings`` of ``duration_s`` in all go
        in.
        """


def collect_folders(source: CorpusSource) -> list[tuple[str, list[str]]]:
    """(data root, folders) of the source, and of each source that it is derived from."""
    collected = [source.list_folders()] if isinstance(source, FolderSource) else []
    for origin in source.list_origins() if isinstance(source, DerivedSource) else []:
        collected += collect_folders(origin)
    return collected


def parse_settings(cls: type[T], name: str, role: str, settings: dict[str, Any]) -> T:
    """The settings of a source as the dataclass ``cls`` of its kind; raises InputError that names
    the source and the key.
    """
    return parse_as(cls, settings, f"catalogue/corpus.yaml: source '{name}' ({role})")


def check_split(name: str, split: str, role: str) -> None:
    """Raises InputError if a source that generates speech of a split is in another role."""
    if split != role:
        raise InputError(
            f"source '{name}' of split '{split}' is in the role '{role}'.",
            subject=name,
            hint="Sentences and voices differ by split: set split and role to the same.",
        )


def check_room_role(name: str, role: str) -> None:
    """Raises InputError if impulse responses of rooms are in another role than noise."""
    if role != "noise":
        raise InputError(
            f"source '{name}': rooms are no sound by themselves, so the role '{role}' has no use "
            "for them.",
            subject=name,
            hint="List them in the role noise.",
        )


def build_source(name: str, role: str, settings: dict[str, Any]) -> CorpusSource:
    """The source that a catalogue entry describes; raises InputError for an unknown kind or
    setting.
    """
    kind = settings["kind"]
    if kind not in KINDS:
        raise InputError(
            f"source '{name}': unknown kind '{kind}'.", subject=name, hint=nearest(kind, KINDS)
        )
    module = import_module(f"components.corpus.sources.{kind}")
    source: CorpusSource = getattr(module, KINDS[kind])(name, role, settings)
    return source
