"""Deterministic webdataset tars: members ``<id>.<payload>`` and ``<id>.json``, with fixed time,
owner, mode and order.

Cost: limited by the disk; an hour of 16 kHz FLAC is about 60 MB.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shards.index import IndexEntry, member_checksum, read_member_ranges

OWNER = "libretto"  # of every member, user and group: the same on every machine


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
    from webdataset import TarWriter

    # without the payloads and places in the tar, which are read from the finished tar
    rows: list[dict[str, Any]] = []
    with (
        path.open("wb") as stream,  # not the name: webdataset opens a name that has a ':' as a URL
        TarWriter(stream, encoder=False, mtime=0, user=OWNER, group=OWNER, mode=0o444) as tar,
    ):
        for member in members:
            text = json.dumps(describe(member), ensure_ascii=False, sort_keys=True).encode()
            tar.write({"__key__": member.id, payload: member.payload, "json": text})
            rows.append(_row(member, text))
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


def _row(member: TarMember, description: bytes) -> dict[str, Any]:
    return {
        "id": member.id,
        "samples": member.num_samples,
        "frames": member.num_frames,
        "text": member.text,
        "text_length": len(member.text),
        "speaker": member.speaker,
        "checksum": member_checksum(member.payload),
        "json_checksum": member_checksum(description),
    }
