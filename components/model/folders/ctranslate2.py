"""Weights in CTranslate2's binary format: ``model.bin`` → tensors by name.

Little-endian: version (uint32); name of the specification (a text: length with its closing zero in
uint16, bytes), its revision (uint32); number of variables (uint32); of each variable its name (a
text), rank (uint8), sizes (uint32 each), type (uint8), bytes (uint32) and data; number of aliases
(uint32), of each the alias and the variable (two texts).
https://github.com/OpenNMT/CTranslate2/blob/master/python/ctranslate2/specs/model_spec.py writes it.

Only version 6 is read, and nothing is taken on trust: every size must add up to the end of the
file. Cost: the file is mapped, not read into memory.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from components.config.errors import InputError

VERSION = 6
MAX_RANK = 4
# By the number of the type. Types of quantised weights (int8, int4 of AWQ) are not converted; small
# integers are settings.
TYPES = {
    0: torch.float32,
    1: torch.int8,
    2: torch.int16,
    3: torch.int32,
    4: torch.float16,
    5: torch.bfloat16,
}


@dataclass(frozen=True)
class CTranslate2Model:
    """What a ``model.bin`` says: the name of the specification and its revision, tensors by name,
    and the variable that each alias names.
    """

    specification: str
    revision: int
    tensors: dict[str, torch.Tensor]
    aliases: dict[str, str]


def read_model(path: Path, where: str) -> CTranslate2Model:
    """The contents of a ``model.bin``; the tensors are views of the mapped file.

    Raises InputError, which names ``where``, for another version, an unknown type, a name that
    comes twice, sizes that do not fit, and a file that is cut short or has bytes after its end.
    """
    reader = _ModelReader(path, where)
    version = reader.number("I")
    if version != VERSION:
        raise reader.error(f"version {version} of the format, where {VERSION} is read")
    specification, revision = reader.text(), reader.number("I")
    tensors: dict[str, torch.Tensor] = {}
    for _ in range(reader.number("I")):
        name = reader.text()
        if name in tensors:
            raise reader.error(f"'{name}' comes twice")
        tensors[name] = reader.tensor(name)
    aliases: dict[str, str] = {}
    for _ in range(reader.number("I")):
        alias, name = reader.text(), reader.text()
        if name not in tensors or alias in tensors or alias in aliases:
            raise reader.error(f"the alias '{alias}' of '{name}' fits no variable")
        aliases[alias] = name
    reader.check_end()
    return CTranslate2Model(specification, revision, tensors, aliases)


class _ModelReader:
    """A position in a mapped file."""

    def __init__(self, path: Path, where: str) -> None:
        self._path, self._where, self._position = path, where, 0
        if not path.stat().st_size:
            raise self.error("the file is empty")
        # Copy on write: torch takes no array that can't be written.
        self._bytes = np.memmap(path, np.uint8, "c")

    def error(self, reason: str) -> InputError:
        return InputError(
            f"{self._where}: {self._path.name} is no model of CTranslate2 that can be converted: "
            f"{reason} (byte {self._position:,}).",
            subject=self._path.name,
            hint="Take a package with weights of format version 6 in float16 or float32, whole.",
        )

    def _take(self, num_bytes: int) -> np.ndarray:
        end = self._position + num_bytes
        if end > len(self._bytes):
            raise self.error(f"it is cut short: {end - len(self._bytes):,} bytes are missing")
        data = self._bytes[self._position : end]
        self._position = end
        return data

    def number(self, form: str) -> int:
        (value,) = struct.unpack(f"<{form}", self._take(struct.calcsize(f"<{form}")).tobytes())
        return int(value)

    def text(self) -> str:
        data = self._take(self.number("H")).tobytes()
        if not data.endswith(b"\0") or not data[:-1].isascii() or b"\0" in data[:-1]:
            raise self.error("a name is no text")
        return data[:-1].decode("ascii")

    def tensor(self, name: str) -> torch.Tensor:
        rank = self.number("B")
        if rank > MAX_RANK:
            raise self.error(f"'{name}' has {rank} dimensions")
        sizes = [self.number("I") for _ in range(rank)]
        number, num_bytes = self.number("B"), self.number("I")
        if number not in TYPES:
            raise self.error(f"'{name}' has the unknown type {number}")
        dtype = TYPES[number]
        if math.prod(sizes) * dtype.itemsize != num_bytes:
            raise self.error(f"'{name}' of {sizes} in {dtype} has {num_bytes:,} bytes")
        data = self._take(num_bytes)
        if not num_bytes:
            raise self.error(f"'{name}' is empty")
        # Not aligned in the file, so it is copied.
        return torch.from_numpy(data.copy()).view(dtype).reshape(sizes)

    def check_end(self) -> None:
        if self._position != len(self._bytes):
            raise self.error(f"{len(self._bytes) - self._position:,} bytes follow its end")
