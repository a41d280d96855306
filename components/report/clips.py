"""The audio that the page carries: FLAC of the worst utterances, as it lies in the shards, within a
count and a budget of bytes.

In: utterances in the order of their damage, ``data/shards``. Out: bytes by utterance. Cost: the
index of each role, and one read a clip.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from components.config.errors import InputError
from components.report.experiment import Key, Utterance
from components.shards.reader import IndexedUtterance, entries, payload

FLAC = b"fLaC"  # first bytes of a stream (RFC 9639, section 6)


def clips(ranked: Iterable[Utterance], shards: Path, most: int, budget: int) -> dict[Key, bytes]:
    """FLAC of the first ``most`` utterances that have errors; one that would pass ``budget`` (bytes
    in all) is left out.

    Raises InputError for an utterance that no shard holds, a tar that is gone or shorter than its
    index says, and what is no FLAC.
    """
    found: dict[Key, bytes] = {}
    held: dict[str, dict[Key, IndexedUtterance]] = {}
    left = budget
    for each in ranked:
        if len(found) >= most or not each.damage:
            break
        if each.role not in held:
            held[each.role] = {
                (item.source, item.entry.id): item for item in entries(shards / each.role)
            }
        item = held[each.role].get(each.key)
        if item is None:
            raise InputError(
                f"{shards / each.role / each.set} holds no utterance '{each.id}', which was "
                "scored.",
                subject=each.id,
                hint="Run 'dvc repro'.",
            )
        if item.entry.size > left:
            continue
        found[each.key] = _flac(item)
        left -= item.entry.size
    return found


def _flac(item: IndexedUtterance) -> bytes:
    data = payload(item)
    if not data.startswith(FLAC):
        raise InputError(
            f"{item.folder / item.entry.shard}, utterance '{item.entry.id}': no FLAC lies "
            "where the index says.",
            subject=item.entry.id,
            hint="Run 'dvc repro -f shards'.",
        )
    return data
