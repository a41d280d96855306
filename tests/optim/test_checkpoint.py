"""Checkpoints of a training in progress: complete or absent, whenever the process is killed."""

from __future__ import annotations

import copy
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from components.config.errors import InputError
from components.optim import checkpoint, ranks
from components.runtime.hashing import folder_digests


def build_network(seed: int = 0) -> torch.nn.Sequential:
    """Trained and frozen parameters, and buffers."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3), torch.nn.Linear(3, 3)
    )
    network[3].requires_grad_(False)
    return network


def optimiser_of(module: torch.nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        [parameter for parameter in module.parameters() if parameter.requires_grad], lr=0.05
    )


def train(module: torch.nn.Module, optimiser: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        data = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        module(data).pow(2).mean().backward()
        optimiser.step()


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[name]) for name, tensor in one.items()
    )


def test_parameters_buffers_and_moments_come_back_to_the_bit(tmp_path: Path) -> None:
    module = build_network()
    optimiser = optimiser_of(module)
    train(module, optimiser, range(5))
    checkpoint.save(tmp_path / "last", module, optimiser, {"step": 5, "curve": [0.1, None]})
    train(module, optimiser, range(5, 9))
    again = build_network()
    other_optimiser = optimiser_of(again)
    assert checkpoint.load(tmp_path / "last", again, other_optimiser) == {
        "step": 5,
        "curve": [0.1, None],
    }
    train(again, other_optimiser, range(5, 9))
    assert same(state_of(again), state_of(module))
    assert not list(tmp_path.rglob("*.pt"))


def test_a_saved_checkpoint_does_not_follow_the_training(tmp_path: Path) -> None:
    module = build_network()
    optimiser = optimiser_of(module)
    train(module, optimiser, range(2))
    checkpoint.save(tmp_path / "last", module, optimiser, {})
    before = state_of(module)
    train(module, optimiser, range(2, 4))
    assert not same(state_of(module), before)
    checkpoint.load(tmp_path / "last", module, optimiser)
    assert same(state_of(module), before)


@pytest.mark.parametrize("kind", ["fused", "capturable"])
def test_a_count_of_steps_is_restored_where_the_optimiser_reads_it(
    kind: str, tmp_path: Path
) -> None:
    """On the device ``meta`` in place of a GPU: torch's own rule is the reference."""
    module = build_network()
    optimiser = optimiser_of(module)
    train(module, optimiser, range(3))
    checkpoint.save(tmp_path / "last", module, optimiser, {})

    resumed = build_network().to("meta")
    restored, reference = optimiser_of(resumed), optimiser_of(resumed)
    assert all(parameter.device.type == "meta" for parameter in resumed.parameters())
    for other in (restored, reference):
        other.param_groups[0][kind] = True
    saved = optimiser.state_dict()
    saved["param_groups"][0][kind] = True
    reference.load_state_dict(saved)
    checkpoint.load(tmp_path / "last", resumed, restored)
    for parameter, moments in reference.state.items():
        assert moments["step"].device.type == "meta"
        for name, tensor in moments.items():
            own = restored.state[parameter][name]
            assert (own.device, own.dtype) == (tensor.device, tensor.dtype), name

    restored = optimiser_of(resumed)  # neither fused nor captured: the count remains on the CPU
    checkpoint.load(tmp_path / "last", resumed, restored)
    assert {str(moments["step"]) for moments in restored.state.values()} == {"tensor(3.)"}


def test_weights_only_are_saved_and_read_without_an_optimiser(tmp_path: Path) -> None:
    module = build_network()
    checkpoint.save(tmp_path / "best", module, None, {"wer": 0.5})
    again = build_network(seed=1)
    frozen = again[3].weight.clone()
    assert checkpoint.load(tmp_path / "best", again, None) == {"wer": 0.5}
    assert torch.equal(again[0].weight, module[0].weight)
    assert torch.equal(again[3].weight, frozen)


def wider() -> torch.nn.Sequential:
    """As ``build_network``, with a last layer and running means of other sizes."""
    torch.manual_seed(5)
    network = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 5), torch.nn.Linear(5, 3)
    )
    network[3].requires_grad_(False)
    return network


def more() -> torch.nn.Sequential:
    return build_network(seed=5).requires_grad_(True)


def less() -> torch.nn.Sequential:
    network = build_network(seed=5)
    network[1] = torch.nn.Identity()
    return network


@pytest.mark.parametrize(("other", "name"), [(wider, "2.bias"), (more, "3.bias"), (less, "1.bias")])
def test_a_checkpoint_of_another_model_is_refused_and_nothing_is_overwritten(
    other: Any, name: str, tmp_path: Path
) -> None:
    checkpoint.save(tmp_path / "last", build_network(), None, {"step": 3})
    module = other()
    before, digests = state_of(module), folder_digests(tmp_path)
    with pytest.raises(InputError, match=r"last is a checkpoint of another model") as refused:
        checkpoint.load(tmp_path / "last", module, None)
    assert refused.value.subject == name
    assert refused.value.hint
    assert same(state_of(module), before)
    assert folder_digests(tmp_path) == digests


class GatheredTensors:
    """Stands for a network whose parameters are all sharded: what is gathered, and how many
    gathered tensors are in memory when the next one is.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.most_alive, self._references = 0, list[weakref.ref[torch.Tensor]]()
        monkeypatch.setattr(ranks, "is_sharded", lambda tensor: True)
        monkeypatch.setattr(ranks, "full_tensor", self.gather)

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        complete = tensor.clone()
        self.shapes.append(tuple(complete.shape))
        self._references.append(weakref.ref(complete))
        alive = sum(reference() is not None for reference in self._references)
        self.most_alive = max(self.most_alive, alive)
        return complete


def test_a_rank_that_does_not_write_has_one_gathered_tensor_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = build_network()
    optimiser = optimiser_of(module)
    train(module, optimiser, range(2))
    shapes, most_alive = {}, {}
    for write in (False, True):
        with monkeypatch.context() as patch:
            gathered = GatheredTensors(patch)
            checkpoint.save(tmp_path / "last", module, optimiser, {}, write=write)
        shapes[write], most_alive[write] = gathered.shapes, gathered.most_alive
        assert (tmp_path / "last").exists() == write
    assert most_alive[False] == 1
    assert shapes[False] == shapes[True]  # the same tensors in the same order, or ranks would hang
    assert most_alive[True] == len(shapes[True])


def test_the_writer_copies_only_tensors_that_share_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = build_network()
    memory = torch.arange(8.0)
    module.register_buffer("first", memory)
    module.register_buffer("same", memory.view(2, 4))
    module.register_buffer("part", memory[2:5])
    module.register_buffer("turned", torch.arange(6.0).view(2, 3).T)
    original, written = checkpoint.save_file, dict[str, torch.Tensor]()

    def save_file(tensors: dict[str, torch.Tensor], path: Path) -> None:
        written.update(tensors)
        original(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    checkpoint.save(tmp_path / "last", module, None, {})
    own = {
        name: tensor.data_ptr()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }
    copied = {
        name.partition(".")[2]
        for name, tensor in written.items()
        if tensor.data_ptr() != own[name.partition(".")[2]]
    }
    assert copied == {"same", "part", "turned"}
    saved = checkpoint.load_file(tmp_path / "last" / checkpoint.TENSORS)
    for name in ("first", "same", "part", "turned"):
        assert torch.equal(saved[f"buffer.{name}"], module.get_buffer(name))


class Killed(Exception):
    """Stands for a kill."""


def flip_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


# What saving does to the file system, one after the other; a kill comes before one of them.
ACTS = ["rmtree", "rmtree", "mkdir", "save_file", "write_text", "write_text", "rename", "rename"]


def recovered(folder: Path) -> tuple[bool, str]:
    return checkpoint.recover(folder, lambda state: "")


@pytest.mark.parametrize("act", range(len(ACTS)))
def test_a_kill_while_saving_leaves_a_complete_checkpoint(
    act: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, module = tmp_path / "last", build_network()
    checkpoint.save(folder, module, None, {"step": 1})
    first = copy.deepcopy(state_of(module))
    with torch.no_grad():
        module[0].weight += 1
    countdown = [act + 1]

    def die_in(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            countdown[0] -= 1
            if countdown[0] == 0:
                raise Killed
            return original(*arguments, **keywords)

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (checkpoint.shutil, "rmtree"),
        (Path, "mkdir"),
        (checkpoint, "save_file"),
        (Path, "write_text"),
        (Path, "rename"),
    ):
        die_in(owner, name)
    with pytest.raises(Killed):
        checkpoint.save(folder, module, None, {"step": 2})
    monkeypatch.undo()
    assert recovered(folder) == (True, "")
    assert checkpoint.load(folder, module, None)["step"] == 1
    assert same(state_of(module), first)
    # And the next one is saved as if nothing had been.
    checkpoint.save(folder, module, None, {"step": 3})
    assert recovered(folder) == (True, "")
    assert checkpoint.load(folder, module, None) == {"step": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "last.old"]


def test_no_checkpoint_exists_before_the_first_save(tmp_path: Path) -> None:
    assert recovered(tmp_path / "last") == (False, "")
    (tmp_path / "last.new").mkdir()
    assert recovered(tmp_path / "last") == (False, "")


def test_a_disk_that_changes_bytes_is_named_and_the_checkpoint_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, module = tmp_path / "last", build_network()
    checkpoint.save(folder, module, None, {"step": 1})
    monkeypatch.setattr(checkpoint, "drop_from_memory", flip_bit)
    with pytest.raises(InputError, match=r"last") as stopped:
        checkpoint.save(folder, module, None, {"step": 2})
    assert stopped.value.hint
    assert recovered(folder) == (True, "")
    assert checkpoint.load(folder, module, None) == {"step": 1}


def test_a_checkpoint_whose_state_has_a_fault_is_not_put_back(tmp_path: Path) -> None:
    folder, module = tmp_path / "best", build_network()
    for step in (1, 2):
        checkpoint.save(folder, module, None, {"step": step})
    is_there, faults = checkpoint.recover(
        folder, lambda state: "" if state["step"] == 1 else "of another step"
    )
    assert is_there and "of another step" in faults
    assert checkpoint.load(folder, module, None) == {"step": 1}
