"""Sizes of networks are counted once, and those of the default come with the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from components.config import catalogue
from components.config.errors import InputError
from components.config.params import read_params
from components.model.bridges.registry import build_projector
from components.plan import counts
from components.plan.networks import read_networks
from components.plan.size_reader import COMMITTED, SizeReader
from tests.conftest import REPOSITORY

LLAMA = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 64}
# Plans the default in a process that lacks the libraries of the networks.
WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "peft"):
    sys.modules[name] = None
from pathlib import Path
from components.config.params import read_params
from components.plan.__main__ import print_plan
from components.plan.machine import Disk, Machine
from components.plan.run import check_plan, plan_run
machine = Machine("large machine", 1e12, 2, (Path("/"),), (Disk((Path("/"),), 1e15),))
plan = plan_run(read_params(), machine=machine)
print_plan(plan)
check_plan(plan)
"""


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def test_the_committed_figures_are_those_of_the_default() -> None:
    """``python -m components.plan.default_sizes`` writes them after a change of the default."""
    reader = SizeReader({})
    read_networks(read_params(), reader)
    assert json.loads(COMMITTED.read_text()) == reader.figures


def test_the_default_is_planned_without_torch(work: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_network_is_counted_once(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = SizeReader({}).llm(LLAMA)
    monkeypatch.setattr(counts, "count_llm", None)
    assert SizeReader({}).llm(LLAMA) == first
    with pytest.raises(TypeError):
        SizeReader({}).llm({**LLAMA, "vocab_size": 65})


def test_a_shape_that_makes_no_network_is_not_kept(work: Path) -> None:
    for _ in range(2):
        with pytest.raises(InputError):
            SizeReader({}).llm({**LLAMA, "hidden_size": 31})


@pytest.mark.parametrize("name", catalogue.names("projector"))
def test_tokens_of_any_length_are_those_of_the_bridge(name: str) -> None:
    """Below and beyond the listed lengths, on both sides of the last window of a period."""
    entry = catalogue.projector(name)
    size = SizeReader({}).bridge(entry, 1024, 512)
    with torch.device("meta"):
        bridge = build_projector(entry, 1024, 512)
    lengths = [1, 7, 400, counts.MOST_FRAMES]
    lengths += [step * counts.MOST_FRAMES + more for step in (1, 2, 7) for more in range(-60, 61)]
    assert [size.tokens_of(length) for length in lengths] == list(map(bridge.count_tokens, lengths))
