"""What a flow adds to ``dvc repro``: ``python -m bench.flow [--times 3]``, in a workspace whose
stages are up to date.

Times both in the workspace itself, the flow with no server (Prefect starts one of its own for each
run), with one that runs, and the very first time of all, when Prefect makes its database.
Everything of Prefect's lies in a temporary folder. Cost: two minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.runtime.tables import format_table
from flows.command import DVC
from flows.serve import build_address, start_server, stop_process

FLOW = (sys.executable, "-m", "flows.pipeline", "--here")
PORT = 4299


def time_run(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Of one run, which has to succeed."""
    start = time.perf_counter()
    subprocess.run(command, env=environment, capture_output=True, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Prints a row for each way to run."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.flow", description="What a flow adds to dvc repro."
    )
    parser.add_argument(
        "--times", type=int, default=3, metavar="N", help="runs of each kind (default 3)"
    )
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        os.environ["PREFECT_HOME"] = name
        os.environ.pop("PREFECT_API_URL", None)
        plain = dict(os.environ)
        found = {"dvc repro": [time_run([*DVC, "repro"], plain) for _ in range(times)]}
        found["flow, first start of Prefect"] = [time_run(FLOW, plain)]
        found["flow, no server"] = [time_run(FLOW, plain) for _ in range(times)]
        start_server("127.0.0.1", PORT, home)
        try:
            asked = {**plain, "PREFECT_API_URL": build_address("127.0.0.1", PORT)}
            found["flow, with a server"] = [time_run(FLOW, asked) for _ in range(times)]
        finally:
            stop_process(home, "server")
    least = min(found["dvc repro"])
    print(
        format_table(
            [
                {
                    "run": name,
                    "seconds": " ".join(f"{each:.1f}" for each in runs),
                    "more than dvc repro": f"{max(runs) - least:.1f}",
                }
                for name, runs in found.items()
            ]
        )
    )


if __name__ == "__main__":
    main()
