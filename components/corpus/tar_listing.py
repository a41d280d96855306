"""A tar in webdataset layout, from anywhere → its samples: where their audio is, and transcripts.

In: a tar, on this machine or in a bucket, and the names of the fields to read. Out: a row for each
sample with the place, the inspection and the transcript of its recording, the members that are
refused, and counts of all members. Only audio and text are read: no other member is decoded
(webdataset's own decoder unpickles some, which runs code), nothing is unpacked, and a mode that
says "executable" has no effect. Cost: one read of the tar and that of inspecting its audio; a tar
of a bucket is in memory as a whole.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from components.corpus.inspection import InspectedFile, inspect_bytes
from components.corpus.tar_members import (
    SampleFields,
    check_dots,
    ending_of,
    find_fault,
    group_members,
    has_field,
    key_splitter,
    printable,
    read_members,
)
from components.runtime.s3 import RemotePath

MAX_TEXT = 1 << 20  # bytes of a text or JSON member: hours of speech; more is no transcript
EXECUTABLE = 0o111  # bits of a member's mode
NO_FILE = InspectedFile()  # of a sample whose audio was not read


class BrokenText(Exception):
    """A transcript that cannot be read; the message is the reason to refuse its sample."""


@dataclass(frozen=True)
class TarSample:
    """One sample: its recording, with a ``fault`` where that cannot be used."""

    key: str
    member: str = ""  # name of the audio member
    start: int = 0  # byte of the tar
    end: int = 0  # byte, exclusive
    text: str | None = None  # None: there is none
    speaker: str = ""
    language: str = ""
    fault: str = ""
    file: InspectedFile = NO_FILE


@dataclass(frozen=True)
class TarListing:
    """What a tar has. Every member is in one of the ``members`` counts; ``executables`` are counted
    beside them.
    """

    samples: list[TarSample]
    refused: list[tuple[str, str]]  # name of a member, reason
    members: dict[str, int]  # by 'audio', 'text', 'json', 'folder', 'refused' or 'other: <ending>'
    executables: int


def list_tar(tar: Path | RemotePath, fields: SampleFields) -> TarListing:
    """Reads a tar; raises InputError that names tar and member for one that is cut off, compressed
    or no tar, for two files of one name, and for a key with dots.
    """
    with tar.open("rb") as stream:
        members = read_members(tar, stream)
        refused = [
            (printable(member.name), reason) for member in members if (reason := find_fault(member))
        ]
        files = [member for member in members if member.isreg() and not find_fault(member)]
        split = key_splitter(fields)
        samples = group_members(
            tar, [member for member in files if has_field(member.name, split)], split
        )
        check_dots(tar, samples, fields)
        return TarListing(
            samples=[_read_sample(stream, sample, fields) for sample in samples],
            refused=refused,
            members=_count_members(members, files, samples, fields),
            executables=sum(bool(member.mode & EXECUTABLE) for member in files),
        )


def _count_members(
    members: Sequence[tarfile.TarInfo],
    files: Sequence[tarfile.TarInfo],
    samples: Sequence[dict[str, Any]],
    fields: SampleFields,
) -> dict[str, int]:
    """Number of members by what is done with them; every member is counted once."""
    counts = Counter(
        kind for sample in samples for field in sample if (kind := _kind_of(field, fields))
    )
    read = {
        member.name
        for sample in samples
        for field, member in sample.items()
        if _kind_of(field, fields)
    }
    counts.update(f"other: {ending_of(file.name)}" for file in files if file.name not in read)
    counts["folder"] = sum(member.isdir() and not find_fault(member) for member in members)
    counts["refused"] = sum(bool(find_fault(member)) for member in members)
    if counts.total() != len(members):
        raise RuntimeError(f"{len(members)} members, but {counts.total()} counted.")
    return dict(sorted((+counts).items()))


def _kind_of(field: str, fields: SampleFields) -> str:
    """What a field is read as; empty: as nothing."""
    if field in fields.audio:
        return "audio"
    return {fields.text: "text", fields.json: "json"}.get(field, "")


def _read_sample(stream: BinaryIO, sample: dict[str, Any], fields: SampleFields) -> TarSample:
    key = str(sample["__key__"])
    present = [field for field in fields.audio if field in sample]
    if len(present) != 1:
        reason = (
            f"several audio members: {', '.join(present)}; name one of them in 'audio'"
            if present
            else f"no audio: no member ends in {', '.join(fields.audio)}"
        )
        return TarSample(key, fault=reason)
    member: tarfile.TarInfo = sample[present[0]]
    start, end = member.offset_data, member.offset_data + member.size
    try:
        text, speaker, language = _read_texts(stream, sample, fields)
    except BrokenText as error:
        return TarSample(key, member.name, start, end, fault=str(error))
    stream.seek(start)
    file = inspect_bytes(stream.read(member.size))
    return TarSample(key, member.name, start, end, text, speaker, language, file=file)


def _read_texts(
    stream: BinaryIO, sample: dict[str, Any], fields: SampleFields
) -> tuple[str | None, str, str]:
    """(text, speaker, language) of a sample; a text member comes before the text of its JSON."""
    values = _read_json(stream, sample.get(fields.json)) if fields.json else {}
    text = _value(values, fields.text_name)
    if fields.text and fields.text in sample:
        text = _one_line(_read_text(stream, sample[fields.text]) or "")
    speaker, language = _value(values, fields.speaker_name), _value(values, fields.language_name)
    return text, speaker or "", language or ""


def _read_json(stream: BinaryIO, member: tarfile.TarInfo | None) -> dict[str, Any]:
    content = _read_text(stream, member)
    if member is None or content is None:
        return {}
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        raise BrokenText(f"broken JSON: {member.name}") from None
    if not isinstance(values, dict):
        raise BrokenText(f"broken JSON: {member.name} is no object")
    return values


def _read_text(stream: BinaryIO, member: tarfile.TarInfo | None) -> str | None:
    if member is None:
        return None
    if member.size > MAX_TEXT:
        raise BrokenText(f"broken text: {member.name} has {member.size:,} bytes")
    stream.seek(member.offset_data)
    try:
        return stream.read(member.size).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BrokenText(f"broken text: {member.name} is not UTF-8") from None


def _value(values: dict[str, Any], name: str | None) -> str | None:
    """A value of a sample's JSON as text: a string, or a number such as that of a speaker."""
    value = values.get(name) if name else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BrokenText(f"broken JSON: '{name}' is no string")
    return _one_line(printable(str(value)))


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.split("\n") if line.strip())
