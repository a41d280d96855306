"""``python -m components.plan.default_sizes``: the sizes that come with this package, counted anew.

In: the networks that ``params.yaml`` names. Out: ``counts.json`` of ``components.plan``, with which
a plan of the default needs no torch. Cost: about 5 s.
"""

from __future__ import annotations

import json

from components.config.params import read_params
from components.plan.networks import read_networks
from components.plan.size_reader import COMMITTED, SizeReader


def main() -> None:
    """Counts the networks, and writes their figures."""
    reader = SizeReader({})
    read_networks(read_params(), reader)
    COMMITTED.write_text(json.dumps(reader.figures, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
