"""``python -m components.clean [--limit-gb N]``: drops the oldest finished units of the work cache
down to a size.
"""

from __future__ import annotations

import argparse

from components.runtime.settings import work_root
from components.runtime.unit_cache import trim


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m components.clean", description=__doc__)
    parser.add_argument(
        "--limit-gb", type=float, help="size to trim to (default: LIBRETTO_WORK_GB)"
    )
    limit = parser.parse_args().limit_gb
    dropped, left = trim(None if limit is None else int(limit * 1e9))
    print(f"{work_root()}: {dropped} units dropped, {left / 1e9:.2f} GB left")


if __name__ == "__main__":
    main()
