"""Training by torchrun: two ranks with gloo compared with one process, replicated and sharded;
errors and kills.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.config.errors import InputError, TransientError
from components.runtime.hashing import folder_digests
from tests import world as tones
from tests.conftest import REPOSITORY
from tests.runtime.test_pool import is_running
from tests.train.recorded import record_ranks

Steps = Callable[..., tuple[list[list[torch.Tensor]], list[float]]]
LORA_RATE = 0.001  # of params.yaml, the recipe's


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: Path, world: Path) -> Steps:
    """Trains with an engine on so many ranks: (gradients of the first step on each rank, loss of
    each step).
    """

    def train(
        name: str, ranks: int, suffix: str = "", *, again: bool = False
    ) -> tuple[list[list[torch.Tensor]], list[float]]:
        folder = tmp_path / f"{name}-{ranks}-{suffix or again}"
        folder.mkdir(exist_ok=again)
        record_ranks(monkeypatch, folder, name, ranks)
        tones.run("train")
        with Path("metrics/curve.csv").open(newline="") as stream:
            losses = [float(row["loss"]) for row in csv.DictReader(stream)]
        if suffix:  # the second node's ranks are among them
            return [], losses
        return [
            torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)
        ], losses

    return train


def digests() -> dict[str, str]:
    return {**folder_digests(Path("models/bridge")), "curve": Path("metrics/curve.csv").read_text()}


def relative_distance(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """The largest relative distance between two lists of gradients."""
    return max(
        float((a - b).norm() / a.norm().clamp(min=1e-12)) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    ("tune", "rate", "tolerance"),
    [(["projector"], 1e-4, 1e-5), (["projector", "lora"], LORA_RATE, 1e-3)],
)
def test_two_ranks_follow_one_process(
    name: str, tune: list[str], rate: float, tolerance: float, steps: Steps
) -> None:
    """Three micro-batches, so that the ranks have unequal shares of a step."""
    tones.change(
        "params.yaml",
        {
            "train.micro_batches": 3,
            "train.lora.dropout": 0.0,
            "train.lora.learning_rate": LORA_RATE,
            "train.selection.every": 25,
            "train.curriculum.0.steps": 50,
            "train.curriculum.0.tune": tune,
            "train.curriculum.0.learning_rate": rate,
            "train.curriculum.1.steps": 1,
        },
    )
    single, expected = steps("ddp", 1)
    gradients, losses = steps(name, 2)
    assert all(relative_distance(single[0], rank_gradients) < 1e-6 for rank_gradients in gradients)
    assert losses == pytest.approx(expected, abs=tolerance)


@pytest.mark.slow
def test_a_sharded_llm_is_tuned_in_full(steps: Steps) -> None:
    """Over eight ranks, after a stage in which it was frozen: the shards' gradients, moments,
    checkpoints and saved weights are those of one process.
    """
    tones.change(
        "params.yaml",
        {
            "train.micro_batches": 8,
            "train.curriculum.1.tune": ["projector", "llm"],
            "train.full.llm": 1e-3,
        },
    )
    _, expected = steps("ddp", 1)
    tuned = load_file("models/bridge/llm.safetensors")
    _, losses = steps("fsdp", 8)
    assert losses == pytest.approx(expected, abs=1e-3)
    sharded = load_file("models/bridge/llm.safetensors")
    assert tuned.keys() == sharded.keys()
    assert any("layers.1" in name for name in sharded)
    assert max(float((sharded[name] - tuned[name]).abs().max()) for name in sharded) < 1e-3


@pytest.mark.slow
def test_a_run_with_a_killed_rank_stops_and_resumes_to_the_same_bits(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps("fsdp", 2)
    undisturbed = digests()
    monkeypatch.setenv("KILLED", "1:9")
    with pytest.raises(TransientError) as killed:
        steps("fsdp", 2, again=True)
    assert killed.value.hint
    monkeypatch.delenv("KILLED")
    steps("fsdp", 2, again=True)
    assert digests() == undisturbed


@pytest.mark.slow
def test_the_error_of_a_rank_comes_through_with_its_hint(steps: Steps, work: Path) -> None:
    tones.change(
        "params.yaml", {"train.curriculum.0.learning_rate": 1e30, "train.weight_decay": 0.0}
    )
    with pytest.raises(InputError, match="nan") as stopped:
        steps("ddp", 2)
    assert stopped.value.hint


@pytest.mark.slow
def test_two_nodes_are_one_training(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two launchers on one machine are two nodes: the stage logs the command of the second."""
    caplog.set_level("INFO")
    steps("ddp", 2)
    expected = digests()
    caplog.clear()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for key, value in {
        "LIBRETTO_NODES": "2",
        "LIBRETTO_RENDEZVOUS": f"127.0.0.1:{port}",
        "GLOO_SOCKET_IFNAME": "lo",
    }.items():
        monkeypatch.setenv(key, value)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(steps, "ddp", 1, suffix="nodes")
        line = None
        while line is None and not first.done():
            time.sleep(0.2)
            line = re.search(r"start on each other node, .*: python (.*)\n", caplog.text)
        assert line, caplog.text
        second = subprocess.run(
            [sys.executable, *shlex.split(line[1])],
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        first.result()
    assert second.returncode == 0
    assert digests() == expected


def test_more_ranks_than_micro_batches_are_refused(steps: Steps) -> None:
    with pytest.raises(InputError, match=r"3 ranks.* 2 micro-batches") as refused:
        steps("ddp", 3)
    assert refused.value.subject == "train.micro_batches"
    assert refused.value.hint


def test_fp16_with_fsdp_is_refused_before_a_rank_is_started(steps: Steps) -> None:
    tones.change("params.yaml", {"train.precision": "fp16"})
    with pytest.raises(InputError) as refused:
        steps("fsdp", 2)
    assert refused.value.subject == "train.precision"
    assert refused.value.hint


@pytest.mark.parametrize(
    ("settings", "subject"),
    [
        ({"LIBRETTO_ENGINE": "dpp"}, "LIBRETTO_ENGINE"),
        ({"LIBRETTO_ENGINE": "ddp", "LIBRETTO_NODES": "2"}, "LIBRETTO_NODES"),
        ({"LIBRETTO_NODES": "2", "LIBRETTO_RENDEZVOUS": "host:2950"}, "LIBRETTO_NODES"),
    ],
)
def test_wrong_settings_are_refused(
    settings: dict[str, str], subject: str, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(InputError) as stopped:
        tones.run("train")
    assert stopped.value.subject == subject
    assert stopped.value.hint


STAGE = """
from components.runtime.signals import end_early
from tests import world

end_early("train")
world.run("train")
"""


def find_ranks(folder: Path) -> list[int]:
    """Ids of torchrun and its ranks in a workspace."""
    processes = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            is_rank = b"components.optim.rank" in (entry / "cmdline").read_bytes()
            if is_rank and (entry / "cwd").resolve() == folder:
                processes.append(int(entry.name))
    return processes


@pytest.mark.slow
def test_a_stage_that_is_ended_takes_its_ranks_along_without_a_traceback(
    world: Path, work: Path, tmp_path: Path
) -> None:
    tones.change("params.yaml", {"train.curriculum.0.steps": 3000, "train.selection.every": 20})
    settings = {"LIBRETTO_ENGINE": "ddp", "LIBRETTO_WORKERS": "2", "PYTHONPATH": str(REPOSITORY)}
    with (
        (tmp_path / "errors").open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-c", STAGE],
            env={**os.environ, **settings},
            stderr=errors,
            start_new_session=True,
        ) as stage,
    ):
        deadline = time.monotonic() + 120
        while not any(work.rglob("last/state.json")) and time.monotonic() < deadline:
            time.sleep(0.2)
        ranks = find_ranks(world.resolve())
        os.killpg(stage.pid, signal.SIGTERM)
        assert stage.wait(10) == 143
    assert len(ranks) == 3
    deadline = time.monotonic() + 10
    while any(map(is_running, ranks)):
        assert time.monotonic() < deadline, "ranks outlived their stage"
        time.sleep(0.1)
    assert "Traceback" not in (tmp_path / "errors").read_text()
    assert any(work.rglob("last/state.json"))
