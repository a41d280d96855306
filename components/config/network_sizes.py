"""Sizes in the settings of a network that no network has: building it would take all memory, or
never end.

In: a ``config.json``, or the settings of an architecture in the catalogue, as plain data. Out:
nothing, or InputError with the key. Cost: microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.config.errors import InputError
from components.config.schema import RuleError

# Largest values by the last words of a key; the first pattern that fits counts. The largest
# networks have 126 layers, widths of 16,384 and vocabularies of 262,144.
LIMITS = (
    (re.compile(r"(^|_)layers?$"), 1_000),
    (
        re.compile(
            r"(^|_)(hidden_size|d_model|n_embd|embed_dim|feature_size|conv_dim|conv_kernel"
            r"|conv_stride|mel_bins|heads?|experts)$"
        ),
        100_000,
    ),
    (re.compile(r"(^|_)(size|dim)$"), 10_000_000),
)


def check_network_sizes(settings: Mapping[str, Any], where: str) -> None:
    """Raises InputError, which names ``where`` and the key, for a number of layers, a width or a
    size of a vocabulary that is none.
    """
    wrong = find_wrong_size(settings)
    if wrong:
        raise InputError(f"{where}: '{wrong.key}' {wrong}", subject=wrong.key, hint=wrong.hint)


def find_wrong_size(settings: Mapping[str, Any]) -> RuleError | None:
    """The first size that no network has, by its dotted key; None where all are possible."""
    for key, value in _numbers(settings):
        name = re.sub(r"(\.\d+)+$", "", key).rpartition(".")[2]
        limit = next((most for pattern, most in LIMITS if pattern.search(name)), None)
        if limit is not None and not 0 <= value <= limit:  # NaN is none either
            return RuleError(
                key,
                f"is {value:g}: no network has that size; 0 to {limit:,} are possible.",
                "Correct the value, or take another copy of the checkpoint.",
            )
    return None


def _numbers(data: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in plain data by their dotted key; a position in a list is a part of it."""
    if isinstance(data, int | float) and not isinstance(data, bool):
        yield key, data if abs(data) < 10**300 or data != data else float("inf")
    elif isinstance(data, Mapping):
        for name, value in data.items():
            yield from _numbers(value, f"{key}.{name}" if key else str(name))
    elif isinstance(data, Sequence) and not isinstance(data, str):
        for index, value in enumerate(data):
            yield from _numbers(value, f"{key}.{index}")
