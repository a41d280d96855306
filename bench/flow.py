"""What a flow adds to ``dvc repro``: ``python -m bench.flow [--times 3]``, in a workspace whose
stages are up to date.

Times both in the workspace itself: the flow without a server (Prefect starts one of its own for
each run), with a running one, and its very first start, when Prefect creates its database. All
files of Prefect are in a temporary folder. Cost: two minutes.
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
HOST, PORT = "127.0.0.1", 4299


def time_run(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Seconds of one run, which must succeed."""
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
    num_runs = parser.parse_args().times
    with tempfile.TemporaryDirectory() as name:
        os.environ["PREFECT_HOME"] = name
        os.environ.pop("PREFECT_API_URL", None)
        environment = dict(os.environ)
        seconds = {"dvc repro": [time_run([*DVC, "repro"], environment) for _ in range(num_runs)]}
        seconds["flow, first start of Prefect"] = [time_run(FLOW, environment)]
        seconds["flow, no server"] = [time_run(FLOW, environment) for _ in range(num_runs)]
        start_server(HOST, PORT, Path(name))
        try:
            environment["PREFECT_API_URL"] = build_address(HOST, PORT)
            seconds["flow, with a server"] = [time_run(FLOW, environment) for _ in range(num_runs)]
        finally:
            stop_process(Path(name), "server")
    shortest = min(seconds["dvc repro"])
    rows = [
        {
            "run": way,
            "seconds": " ".join(f"{value:.1f}" for value in values),
            "more than dvc repro": f"{max(values) - shortest:.1f}",
        }
        for way, values in seconds.items()
    ]
    print(format_table(rows))


if __name__ == "__main__":
    main()
