"""Deterministic webdataset tars: members ``<id>.<payload>`` and ``<id>.json``, with fixed time,
owner, mode and order.

Cost: limited by the disk; an hour of 16 kHz FLAC is about 60 MB.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shards.index import IndexEntry, read_member_ranges


@dataclass(frozen=True)
class TarMember:
    """One utterance to write."""

    id: str
    payload: bytes  # of the .flac or .npy member
    num_samples: int  # at 16 kHz
    num_frames: int  # of the encoder; 0 for audio
    text: str
    speaker: str
    language: str


def describe(member: TarMember) -> dict[str, Any]:
    """The content of the ``.json`` member of an utterance."""
    return {
        "id": member.id,
        "text": member.text,
        "speaker": member.speaker,
        "language": member.language,
        "samples": member.num_samples,
    }


def write_tar(path: Path, members: Iterable[TarMember], payload: str) -> list[IndexEntry]:
    """Writes one tar and returns its index entries, in the order of ``members``; ``payload`` is the
    file ending of the payloads, ``flac`` or ``npy``.
    """
    # without the payloads and places in the tar, which are read from the finished tar
    rows: list[dict[str, Any]] = []
    # The standard library's writer: webdataset's own writes the time of day and imports torch.
    with tarfile.open(path, "w") as archive:
        for member in members:
            text = json.dumps(describe(member), ensure_ascii=False, sort_keys=True).encode()
            for ending, data in sorted({payload: member.payload, "json": text}.items()):
                archive.addfile(_header(f"{member.id}.{ending}", len(data)), io.BytesIO(data))
            rows.append(_row(member))
    ranges = read_member_ranges(path)
    entries = []
    for row in rows:
        offset, size = ranges[f"{row['id']}.{payload}"]
        json_offset, json_size = ranges[f"{row['id']}.json"]
        entries.append(
            IndexEntry(
                shard=path.name,
                offset=offset,
                size=size,
                json_offset=json_offset,
                json_size=json_size,
                **row,
            )
        )
    return entries


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mtime, header.mode = size, 0, 0o444
    header.uname = header.gname = "libretto"
    return header


def _row(member: TarMember) -> dict[str, Any]:
    return {
        "id": member.id,
        "samples": member.num_samples,
        "frames": member.num_frames,
        "text": member.text,
        "text_length": len(member.text),
        "speaker": member.speaker,
    }
