"""Audio clips for the page: FLAC of the utterances with most errors, limited in number and bytes.

In: utterances, most errors first, and ``data/shards``. Out: FLAC, as in the shards, by utterance.
Cost: the index of each role, and one read a clip.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from components.config.errors import REPAIR, InputError
from components.report.experiment import ScoredUtterance, UtteranceKey
from components.shards.reader import IndexedUtterance, list_utterances, read_payload

FLAC_MAGIC = b"fLaC"  # first bytes of a stream (RFC 9639, section 6)


def read_clips(
    utterances: Iterable[ScoredUtterance], shards: Path, max_clips: int, max_bytes: int
) -> dict[UtteranceKey, bytes]:
    """FLAC of the first ``max_clips`` utterances that have errors.

    A clip that would exceed ``max_bytes`` (of all clips together) is left out. Raises InputError if
    no shard has the utterance, if a tar is missing or shorter than its index says, and if the bytes
    are not FLAC.
    """
    clips: dict[UtteranceKey, bytes] = {}
    indices: dict[str, dict[UtteranceKey, IndexedUtterance]] = {}
    remaining_bytes = max_bytes
    for utterance in utterances:
        if len(clips) >= max_clips or not utterance.num_errors:
            break
        if utterance.role not in indices:
            indices[utterance.role] = {
                (item.source, item.entry.id): item
                for item in list_utterances(shards / utterance.role)
            }
        item = indices[utterance.role].get(utterance.key)
        if item is None:
            raise InputError(
                f"{shards / utterance.role / utterance.set} has no utterance '{utterance.id}', "
                "which was scored.",
                subject=utterance.id,
                hint="Run 'dvc repro'.",
            )
        if item.entry.size > remaining_bytes:
            continue
        clips[utterance.key] = _read_flac(item)
        remaining_bytes -= item.entry.size
    return clips


def _read_flac(item: IndexedUtterance) -> bytes:
    data = read_payload(item)
    if not data.startswith(FLAC_MAGIC):
        raise InputError(
            f"{item.folder / item.entry.shard}, utterance '{item.entry.id}': the index points to "
            "bytes that are not FLAC.",
            subject=item.entry.id,
            hint=REPAIR,
        )
    return data
