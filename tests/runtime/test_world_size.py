"""How many processes train together: never more than there are micro-batches, and refused before
any work where somebody asks for more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from components.config import catalogue
from components.config.params import read_overridden_params, read_params
from components.config.training import Train
from components.plan.recipe import expand, place_on_base, read_recipe
from components.runtime import stage, world_size
from components.runtime.stage import _check_ranks, run_stage
from components.runtime.world_size import choose_ranks, trained_section
from tests.conftest import REPOSITORY
from tests.errors import refused

# Found from any folder: none would be no test.
RECIPES = sorted(path.stem for path in (REPOSITORY / "flows/recipes").glob("*.yaml"))


@pytest.fixture
def with_gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    monkeypatch.chdir(REPOSITORY)

    def set_count(count: int) -> None:
        for module in (world_size, stage):
            monkeypatch.setattr(module, "count_gpus", lambda: count)

    return set_count


def settings_of(micro_batches: int) -> Train:
    return replace(read_params().train, micro_batches=micro_batches)


@pytest.mark.parametrize(
    ("gpus", "micro_batches", "ranks", "engine"),
    [(1, 8, 1, ""), (2, 8, 2, "ddp"), (3, 8, 3, "ddp"), (8, 2, 2, "ddp"), (8, 1, 1, "")],
)
def test_all_gpus_train_that_have_a_micro_batch(
    gpus: int, micro_batches: int, ranks: int, engine: str, with_gpus: Callable[[int], None]
) -> None:
    with_gpus(gpus)
    chosen, num_processes = choose_ranks(settings_of(micro_batches))
    assert (chosen.name, num_processes) == (engine, ranks)


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_an_engine_with_more_ranks_than_micro_batches_is_refused(
    engine: str, with_gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(8)
    monkeypatch.setenv("LIBRETTO_ENGINE", engine)
    assert choose_ranks(settings_of(8))[1] == 8
    with refused("train.micro_batches", "8 ranks", " 4 "):
        choose_ranks(settings_of(4))
    monkeypatch.setenv("LIBRETTO_NODES", "2")
    monkeypatch.setenv("LIBRETTO_RENDEZVOUS", "host:2950")
    with refused("train.micro_batches", "16 ranks"):
        choose_ranks(settings_of(8))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_on_one_to_eight_gpus(
    name: str, with_gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each GPU has a part of the batch in a recipe of a paper; sixteen are refused, or each has a
    part.
    """
    with_gpus(1)  # changes into the repository
    recipe = read_recipe(name)
    is_paper = "# Source:" in Path(f"flows/recipes/{name}.yaml").read_text()
    for cell in place_on_base(recipe, expand(recipe)):
        params = read_overridden_params(cell.overrides, name)
        settings, projector = params.train, catalogue.projector(params.projector)
        has_training = is_paper and projector.weights is None and not name.startswith("embedded-")
        for gpus in (1, 2, 4, 8, 16):
            with_gpus(gpus)
            monkeypatch.delenv("LIBRETTO_ENGINE", raising=False)
            _check_ranks(params)
            ranks = choose_ranks(settings)[1]
            assert ranks == min(gpus, settings.micro_batches)
            assert ranks >= min(gpus, 8) or not has_training
            monkeypatch.setenv("LIBRETTO_ENGINE", "ddp")
            if gpus <= settings.micro_batches:
                assert choose_ranks(settings)[1] == gpus
            else:
                with refused("train.micro_batches"):
                    choose_ranks(settings)


def test_ranks_are_not_counted_where_nothing_trains(
    with_gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A released projector between published models, and a machine without a GPU that computes
    frames for another one.
    """
    with_gpus(8)
    monkeypatch.setenv("LIBRETTO_ENGINE", "ddp")
    released = {
        "encoder": "wavlm-large",
        "projector": "slam-asr-wavlm-large-vicuna-7b",
        "llm": "vicuna-7b",
    }
    with refused("train.micro_batches"):
        _check_ranks(read_params())
    _check_ranks(read_overridden_params(released, ""))
    with_gpus(0)
    monkeypatch.setenv("LIBRETTO_WORKERS", "16")
    _check_ranks(read_params())
    monkeypatch.setenv("LIBRETTO_DEVICE", "cpu")
    with refused("train.micro_batches"):
        _check_ranks(read_params())


@pytest.mark.parametrize(
    ("trained", "owner"),
    [
        ({"encoder": "ctc-tiny", "llm": "vicuna-7b"}, "encoder 'ctc-tiny'"),
        ({"encoder": "wavlm-large", "llm": "llama-tiny"}, "llm 'llama-tiny'"),
    ],
)
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_ranks_are_counted_where_an_encoder_or_llm_is_trained_here(
    engine: str,
    trained: dict[str, str],
    owner: str,
    with_gpus: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With two micro-batches, beside a bridge that has enough of them."""
    params = read_overridden_params({"train.micro_batches": 8, **trained}, "")
    with_gpus(8)
    _check_ranks(params)  # two of the GPUs train it
    monkeypatch.setenv("LIBRETTO_ENGINE", engine)
    with refused("source.training.micro_batches", owner, "8 ranks", " 2 "):
        _check_ranks(params)
    with_gpus(2)
    _check_ranks(params)


def test_an_encoder_is_never_sharded(
    with_gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(2)
    monkeypatch.setenv("LIBRETTO_ENGINE", "fsdp")
    settings = replace(read_params().train, micro_batches=2, precision="fp16")
    section = trained_section("encoder", "conformer-ctc")
    assert choose_ranks(settings, section)[0].name == "ddp"
    with refused("train.precision"):
        choose_ranks(settings)


def test_too_many_ranks_stop_the_first_stage_and_not_the_training(
    with_gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the role train alone: another test set is computed whatever trains."""
    with_gpus(8)
    monkeypatch.setenv("LIBRETTO_ENGINE", "ddp")
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path))
    assert read_params().train.micro_batches < 8
    worked = []
    for role, is_stopped in (("train", True), ("test", False)):
        monkeypatch.setattr(sys, "argv", ["components.corpus", "--role", role])
        monkeypatch.setattr("components.runtime.stage._record", lambda *_: None)
        if is_stopped:
            with pytest.raises(SystemExit) as stopped:
                run_stage("corpus", lambda own: worked.append(own.role), roles=True)
            assert stopped.value.code == 2
        else:
            run_stage("corpus", lambda own: worked.append(own.role), roles=True)
    assert worked == ["test"]
