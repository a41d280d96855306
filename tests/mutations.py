"""Damaged copies of real files: bits, sizes and pieces changed at random, the same for one seed.

``MUTATIONS`` in the environment sets how many a test tries: ``MUTATIONS=10000 pytest -k mutated``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from random import Random

# Ends of ranges of sizes and offsets, where readers go wrong.
ENDS = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\1\0\0\0")


def mutated_files(files: Mapping[str, bytes], default: int) -> Iterator[tuple[str, bytes]]:
    """(name of the file, damaged copy), ``default`` of them where ``MUTATIONS`` is not set."""
    random, names = Random(1), sorted(files)
    for index in range(int(os.environ.get("MUTATIONS", default))):
        name = names[index % len(names)]
        data = bytearray(files[name])
        for _ in range(random.choice((1, 1, 2, 4, 16))):
            if data:
                _damage(data, random)
        yield name, bytes(data)


def _damage(data: bytearray, random: Random) -> None:
    # Most of what decides is at the beginning.
    position = random.randrange(min(len(data), random.choice((16, 64, 256, len(data)))))
    kind = random.randrange(6)
    if kind == 0:
        data[position] ^= 1 << random.randrange(8)
    elif kind == 1:
        data[position : position + 4] = random.choice(ENDS)
    elif kind == 2:
        del data[position:]
    elif kind == 3:
        data[position:position] = random.randbytes(random.randrange(1, 40))
    elif kind == 4:
        del data[position : position + random.randrange(1, 64)]
    else:
        data += data[position:]
