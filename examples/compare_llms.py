"""Two LLMs behind the same encoder: error rates side by side, and whether they differ.

::

    libretto use smoke        # a size for tests; leave it out for the size of params.yaml
    python examples/compare_llms.py llama-smoke phi-smoke

Run it in a workspace. The names are entries of ``catalogue/llm.yaml``. For each of them the stages
that depend on the LLM run as a DVC experiment; encoder, shards and frames are shared. The first
name is the baseline. Started again, it continues where it stopped. Takes about a minute for each
LLM at smoke size.
"""

from __future__ import annotations

import argparse
import sys

from libretto.__main__ import main as run_libretto


def main() -> int:
    """Compares the LLMs of the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Two LLMs side by side.")
    parser.add_argument("llms", nargs="+", metavar="LLM", help="entries of catalogue/llm.yaml")
    options = parser.parse_args()
    return run_libretto(["compare", "--llm", *options.llms])


if __name__ == "__main__":
    sys.exit(main())
