"""The members of somebody's tar, grouped to samples as webdataset groups them: neighbours with one
key, which ends at the first dot of the name.

In: a tar, on this machine or in a bucket, opened. Out: the header of every member, the reason to
refuse one, and the samples. Nothing is unpacked, and no content is read. Cost: one pass over the
headers.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from components.config.errors import InputError
from components.corpus.tar_headers import BoundedTarInfo
from components.runtime.s3 import RemotePath

METADATA = re.compile(r"__[^/]*__($|/)")  # names that webdataset skips
# What the standard library raises for headers that are no headers.
BAD_HEADER = (tarfile.TarError, ValueError, OverflowError, EOFError)
KeySplitter = Callable[[str], tuple[str | None, str | None]]  # name → (key, field)


@dataclass(frozen=True)
class SampleFields:
    """Fields of a sample that are read, in lower case, and the names inside its JSON."""

    audio: tuple[str, ...]
    text: str | None
    json: str | None
    text_name: str | None
    speaker_name: str | None
    language_name: str | None
    has_dotted_keys: bool


def read_members(tar: Path | RemotePath, stream: BinaryIO) -> list[tarfile.TarInfo]:
    """The headers of all members. The standard library takes a tar that ends between two members,
    or has a damaged header, for a complete one: what follows the last member is checked here.
    """
    members: list[tarfile.TarInfo] = []
    try:
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=BoundedTarInfo) as archive:
            for member in archive:
                if member.size < 0:  # would lead back to a member that was read
                    raise tarfile.ReadError("negative size")
                members.append(member)
            end = archive.offset
    except BAD_HEADER as error:
        raise _broken_tar(tar, members, str(error)) from None
    num_zeros = 0
    stream.seek(end)
    while block := stream.read(tarfile.RECORDSIZE):
        if block.strip(b"\0"):
            raise _broken_tar(tar, members, "what follows is no header")
        num_zeros += len(block)
    if num_zeros < tarfile.BLOCKSIZE:
        raise _broken_tar(tar, members, "no end of archive follows")
    return members


def _broken_tar(
    tar: Path | RemotePath, members: Sequence[tarfile.TarInfo], reason: str
) -> InputError:
    position = f"after member '{printable(members[-1].name)}'" if members else "at its beginning"
    return InputError(
        f"{tar} is cut off, damaged or no plain tar {position}: {reason}.",
        subject=str(tar),
        hint="Copy it again; a compressed one (.tar.gz) has to be decompressed, since members are "
        "read by their position. Tars that were joined with 'cat' have to be written as one.",
    )


def find_fault(member: tarfile.TarInfo) -> str:
    """Why a member is refused whatever its name ends in, or an empty string."""
    if member.issym() or member.islnk():
        return f"link: to {printable(member.linkname)}; write the file itself (tar -h)"
    if not (member.isreg() or member.isdir()) or member.issparse():
        return "no plain file: a device, a pipe or a sparse file"
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        return "unsafe path: absolute, or with '..'; write the tar with relative paths"
    if member.name != printable(member.name):
        return "broken name: not UTF-8"
    return ""


def printable(name: str) -> str:
    """A name or text with what is not UTF-8 replaced."""
    return name.encode(errors="surrogatepass").decode(errors="replace")


def key_splitter(fields: SampleFields) -> KeySplitter:
    """What divides the name of a member into key and field; (None, None) for one without a field.

    webdataset's own, or one that ends a key before the name of a field, or at its last dot.
    """
    from webdataset.tariterators import base_plus_ext

    if not fields.has_dotted_keys:
        splitter: KeySplitter = base_plus_ext
        return splitter
    names = [*fields.audio, *filter(None, (fields.text, fields.json))]
    endings = sorted((f".{name}" for name in names), key=len, reverse=True)

    def split(name: str) -> tuple[str | None, str | None]:
        ending = next(
            (ending for ending in endings if name.lower().endswith(ending)),
            PurePosixPath(name).suffix,
        )
        key = name.removesuffix(name[len(name) - len(ending) :])
        return (key, ending[1:]) if ending and PurePosixPath(key).name else (None, None)

    return split


def has_field(name: str, split: KeySplitter) -> bool:
    """Whether a member is a part of a sample."""
    return not METADATA.match(name) and split(name)[0] is not None


def ending_of(name: str) -> str:
    """What the name ends in, in lower case, such as ``pyd``; ``none`` for a name without a dot."""
    return PurePosixPath(name).suffix[1:].lower() or "none"


def group_members(
    tar: Path | RemotePath, members: Sequence[tarfile.TarInfo], split: KeySplitter
) -> list[dict[str, Any]]:
    """The samples as webdataset groups them: ``__key__``, and a member by field."""
    from webdataset.tariterators import group_by_keys

    name = ""

    def list_files() -> Iterator[dict[str, Any]]:
        nonlocal name
        for member in members:
            name = member.name
            yield {"fname": name, "data": member, "__url__": str(tar)}

    try:
        samples: list[dict[str, Any]] = list(group_by_keys(list_files(), keys=split))
    except ValueError:
        raise InputError(
            f"{tar}, member '{name}': its sample has a file of this field already.",
            subject=name,
            hint="Write each file once.",
        ) from None
    num_by_key = Counter(sample["__key__"] for sample in samples)
    for key, count in num_by_key.items():
        if count > 1:
            raise InputError(
                f"{tar}, sample '{key}': its members are in {count} places of the tar.",
                subject=key,
                hint="Write the members of a sample one after another (tar --sort=name), and each "
                "key once.",
            )
    for sample in samples:
        del sample["__url__"]
    return samples


def check_dots(
    tar: Path | RemotePath, samples: Sequence[dict[str, Any]], fields: SampleFields
) -> None:
    """Raises InputError for a sample whose audio was cut off at a dot of its key: webdataset takes
    ``a_sp0.9.flac`` and ``a_sp0.8.flac`` for fields of one sample.
    """
    for sample in samples:
        if any(field in fields.audio for field in sample):
            continue
        for field, member in sample.items():
            if field != "__key__" and field.endswith(tuple(f".{name}" for name in fields.audio)):
                raise InputError(
                    f"{tar}, member '{member.name}': the key ends at the first dot, so that this "
                    f"is the field '{field}' of '{sample['__key__']}', which has no audio.",
                    subject=member.name,
                    hint="If dots are a part of the keys, set 'dotted_keys: true'; else add the "
                    f"field to 'audio', as '{field}'.",
                )
