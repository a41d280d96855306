"""What a curriculum tunes: frozen, LoRA or whole, the encoder and the LLM each by itself, through
training, file and decoding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from components.config.errors import InputError
from components.config.params import read_params
from components.decode.hypotheses import read_hypotheses
from components.features.frames import FrameSource
from components.model.encoders.ctc import CtcHead
from components.model.encoders.encoder import SpeechEncoder
from components.model.llms.causal import load_llm
from components.model.speech_llm import SpeechLLM
from components.model.trainable import plain_name
from components.runtime.hashing import folder_digests
from components.search.beam import search
from components.train.objective import StageObjective
from components.train.parts import TrainableParts
from tests import world as tones
from tests.checkpoints import ENCODER_LORA, save_encoder

BRIDGE = Path("models/bridge")
SIDES: dict[str, dict[str, list[str]]] = {
    "encoder": {"frozen": [], "lora": ["encoder-lora"], "full": ["encoder"]},
    "llm": {"frozen": [], "lora": ["lora"], "full": ["llm"]},
}
RATES = {
    "train.encoder_lora.learning_rate": 0.01,
    "train.encoder_lora.dropout": 0.1,
    "train.full.encoder": 0.001,
    "train.full.llm": 0.001,
}


def tune(*stages: list[str], steps: int = 3, **changed: Any) -> None:
    """Sets a curriculum of some parts a stage, live features and quick learning."""
    first = read_params().raw["train"]["curriculum"][-1]
    curriculum = [
        {**first, "name": f"stage-{number}", "steps": steps, "tune": parts}
        for number, parts in enumerate(stages)
    ]
    settings = {
        "features.mode": "live",
        **RATES,
        "train.curriculum": curriculum,
        "decode.sets": {"free": tones._set(1, 6, 1.0)},
    }
    tones.change(
        "params.yaml",
        {**settings, **{key.replace("__", "."): value for key, value in changed.items()}},
    )


def run() -> dict[str, Any]:
    """Digests of the bridge after features and training."""
    for role in ("train", "dev", "nonspeech-train"):
        tones.run("features", role)
    tones.run("train")
    return folder_digests(BRIDGE)


def use_encoder(family: str) -> None:
    """Another encoder in the world, with what its catalogue entry says of LoRA and batches."""
    save_encoder(tones.ENCODER, family)
    batching = "equal-length" if family.endswith("group-norm") else "padded"
    lora = {"targets": ENCODER_LORA[family]} if family in ENCODER_LORA else None
    tones.change("catalogue/encoder.yaml", {"tiny.lora": lora, "tiny.numerics.batching": batching})


@pytest.fixture
def saved_models(monkeypatch: pytest.MonkeyPatch) -> list[SpeechLLM]:
    """The models of trainings, as they were when they were saved."""
    models: list[SpeechLLM] = []
    original = SpeechLLM.save

    def save(self: SpeechLLM, folder: Path, *, is_writer: bool = True) -> None:
        models.append(self)
        original(self, folder, is_writer=is_writer)

    monkeypatch.setattr(SpeechLLM, "save", save)
    return models


def bases() -> dict[str, torch.Tensor]:
    """Parameters of both checkpoints as they lie there, by plain name."""
    encoder, (llm, _) = SpeechEncoder(tones.ENCODER), load_llm(tones.LLM, "float32", "cpu")
    named = {f"encoder.{name}": parameter for name, parameter in encoder.named_parameters()}
    return named | {f"llm.{name}": parameter for name, parameter in llm.named_parameters()}


@torch.no_grad()  # with a graph attention takes another kernel
def all_frames(source: FrameSource) -> list[torch.Tensor]:
    return source.frames(source.utterances)


def texts(model: SpeechLLM, source: FrameSource) -> list[str]:
    items = source.utterances
    hypotheses = search(
        model.eval(),
        all_frames(source),
        [item.duration_s for item in items],
        read_params().decode.sets["free"],
    )
    return [hypothesis.text for hypothesis in hypotheses]


@pytest.mark.parametrize("encoder", SIDES["encoder"])
@pytest.mark.parametrize("llm", SIDES["llm"])
def test_every_pair_of_schemes_trains_saves_and_decodes(
    encoder: str, llm: str, world: Path, saved_models: list[SpeechLLM]
) -> None:
    tune([*SIDES["encoder"][encoder], *SIDES["llm"][llm], "projector"])
    run()
    before, model = bases(), saved_models[0]
    after = {plain_name(name): parameter.detach() for name, parameter in model.named_parameters()}
    moved = {
        name
        for name, parameter in before.items()
        if name in after and not torch.equal(parameter, after[name])
    }
    for side, scheme in (("encoder", encoder), ("llm", llm)):
        of_side = {name for name in moved if name.startswith(f"{side}.")}
        assert bool(of_side) == (scheme == "full"), side
        lora = [
            parameter
            for name, parameter in after.items()
            if name.startswith(f"{side}.") and "lora_B" in name
        ]
        assert [bool(parameter.abs().sum()) for parameter in lora] == [True] * (
            len(lora) if scheme == "lora" else 0
        )
        assert bool(lora) == (scheme == "lora")
        file = BRIDGE / f"{side}.safetensors"
        assert file.is_file() == (scheme == "full")
        if file.is_file():
            tensors = load_file(file)
            assert of_side <= {f"{side}.{name}" for name in tensors}
            assert all(
                torch.equal(parameter, after[f"{side}.{name}"])
                for name, parameter in tensors.items()
            )
        assert (BRIDGE / {"encoder": "encoder-lora", "llm": "lora"}[side]).is_dir() == (
            scheme == "lora"
        )
    tones.run("features", "test")
    again = SpeechLLM.load(BRIDGE, tones.ENCODER, tones.LLM, "cpu")
    assert (again.encoder is not None) == (encoder != "frozen")
    one, other = (
        FrameSource("test", tones.ENCODER, "cpu", encoder=owner.encoder) for owner in (model, again)
    )
    assert all(torch.equal(*pair) for pair in zip(all_frames(one), all_frames(other), strict=True))
    assert texts(model, one) == texts(again, other)
    again.save(Path("again"))
    names = [path.relative_to("again") for path in Path("again").rglob("*") if path.is_file()]
    assert all(
        (Path("again") / name).read_bytes() == (BRIDGE / name).read_bytes()
        for name in names
        if name.name != "adapter_config.json"
    )


@pytest.mark.parametrize(
    ("parts", "dtype"),
    [(["projector"], torch.float32), (["projector", "encoder-lora"], torch.bfloat16)],
)
def test_a_tuned_encoder_computes_in_the_precision_of_the_training_and_a_frozen_one_in_its_own(
    parts: list[str], dtype: torch.dtype, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()
    original = SpeechEncoder.forward

    def note(module: torch.nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(module, torch.nn.Linear):
            seen.add(output.dtype)

    def note_dtypes(self: SpeechEncoder, waveforms: Any) -> list[torch.Tensor]:
        if not torch.is_grad_enabled():  # dev is decoded as a test set is
            return original(self, waveforms)
        hook = torch.nn.modules.module.register_module_forward_hook(note)
        try:
            return original(self, waveforms)
        finally:
            hook.remove()

    monkeypatch.setattr(SpeechEncoder, "forward", note_dtypes)
    tune(parts, train__precision="bf16")
    run()
    assert seen == {dtype}


def test_decoding_uses_the_tuned_encoder(world: Path) -> None:
    """The hypotheses of the stage, CTC's among them, are those of the model that was loaded."""
    tune(["projector", "encoder"], train__full__encoder=0.02)
    run()
    for role in ("test", "nonspeech-test"):
        tones.run("features", role)
    tones.run("decode")
    model = SpeechLLM.load(BRIDGE, tones.ENCODER, tones.LLM, "cpu")
    source = FrameSource("test", tones.ENCODER, "cpu", encoder=model.encoder)
    items = [item for item in source.utterances if item.source == "tones-test"]
    frames = [source.frames([item])[0] for item in items]
    rows = read_hypotheses(Path("data/decode/test/tones-test.parquet"))
    ctc_texts = {row.utterance_id: row.text for row in rows if row.system == "ctc"}
    assert model.encoder is not None
    assert [ctc_texts[item.entry.id] for item in items] == model.encoder.decode_ctc(frames)
    as_it_was = SpeechEncoder(tones.ENCODER)
    plain_frames = FrameSource("test", tones.ENCODER, "cpu", encoder=as_it_was).frames(items)
    assert not torch.allclose(frames[0], plain_frames[0], atol=1e-3)
    free = {row.utterance_id: row.text for row in rows if row.system == "free"}
    assert [free[item.entry.id] for item in items] == [
        search(model, [utterance_frames], [item.duration_s], read_params().decode.sets["free"])[
            0
        ].text
        for utterance_frames, item in zip(frames, items, strict=True)
    ]


@pytest.mark.parametrize(
    "family",
    ["hubert-layer-norm", "hubert-group-norm", "whisper", "whisper-ast", "wavlm-layer-norm"],
)
def test_encoders_of_other_families_are_tuned_through_the_loop(
    family: str, world: Path, saved_models: list[SpeechLLM]
) -> None:
    """LoRA first, then the whole encoder; nothing is left behind."""
    use_encoder(family)
    tune(["encoder-lora", "projector"], ["encoder"], steps=1)
    run()
    before, after = (
        bases(),
        {plain_name(name): parameter for name, parameter in saved_models[0].named_parameters()},
    )
    changed = {
        name for name in before if name in after and not torch.equal(before[name], after[name])
    }
    unchanged = {name for name in before if name.startswith("encoder.")} - changed
    assert changed
    assert all(
        any(
            part in name
            for part in ("lm_head", "masked_spec_embed", "embed_positions", "k_proj.bias")
        )
        for name in unchanged
    ), unchanged
    again = SpeechLLM.load(BRIDGE, tones.ENCODER, tones.LLM, "cpu")
    assert all(
        torch.equal(parameter, after[plain_name(name)])
        for name, parameter in again.named_parameters()
    )


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("parts", [["projector", "encoder"], ["projector", "encoder-lora", "llm"]])
def test_a_killed_training_of_an_encoder_ends_with_the_same_bits(
    parts: list[str],
    world: Path,
    before_step: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tune(parts, steps=4, train__ctc_weight=0.5)
    undisturbed = run()
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other work"))
    kills = [3]

    def kill(objective: StageObjective, step: int, examples: Any) -> None:
        if step in kills:
            kills.clear()
            raise Killed

    before_step(kill)
    with pytest.raises(Killed):
        tones.run("train")
    assert run() == undisturbed


def assert_refused(pattern: str, before_step: Callable[..., None]) -> None:
    """The training stops with a message of this pattern and a hint, before any step."""
    before_step(lambda *_: pytest.fail("a step was made"))
    with pytest.raises(InputError, match=pattern) as stopped:
        run()
    assert stopped.value.hint


@pytest.mark.parametrize(
    ("parts", "changes", "pattern"),
    [
        (["lora", "llm"], {}, r"train\.curriculum\.0\.tune"),
        (["encoder", "encoder-lora"], {}, r"train\.curriculum\.0\.tune"),
        (["encoder"], {"features.mode": "cached"}, r"'features\.mode': encoder"),
        (["encoder-lora"], {"features.mode": "cached"}, r"'features\.mode': encoder-lora"),
        (["projector"], {"train.ctc_weight": 0.3}, r"'train\.ctc_weight'"),
        (["encoder"], {"train.ctc_weight": 0.3, "features.layer": 1}, r"'features\.layer'"),
        (["encoder"], {"train.ctc_weight": -1}, r"'train\.ctc_weight'"),
    ],
)
def test_parameters_that_do_not_go_together_stop(
    parts: list[str],
    changes: dict[str, Any],
    pattern: str,
    world: Path,
    before_step: Callable[..., None],
) -> None:
    tune(parts)
    tones.change("params.yaml", changes)
    assert_refused(pattern, before_step)


@pytest.mark.parametrize(
    ("family", "parts", "weight", "pattern"),
    [
        ("fbank", ["encoder-lora"], 0.0, r"encoder 'tiny'.*lora\.targets"),
        ("fbank", ["encoder"], 0.0, "'encoder'"),
        (
            "whisper",
            ["encoder"],
            0.3,
            r"encoder 'tiny'.*train\.ctc_weight.*0\.3",
        ),
    ],
)
def test_an_encoder_that_can_not_be_tuned_so_stops(
    family: str,
    parts: list[str],
    weight: float,
    pattern: str,
    world: Path,
    before_step: Callable[..., None],
) -> None:
    use_encoder(family)
    tune(["projector"], parts, train__ctc_weight=weight)
    assert_refused(pattern, before_step)


@pytest.mark.parametrize(
    ("freeze", "pattern"),
    [
        (
            ["encoder.model.encoder.layer.*"],
            r"'stage-1'.*'encoder\.model\.encoder\.layer\.\*'.*encoder\.model\.encoder\.layers",
        ),
        (["llm.*"], r"'llm\.\*'"),
        (["encoder.*"], "'encoder'"),
    ],
)
def test_patterns_that_match_nothing_stop_before_the_first_stage(
    freeze: list[str], pattern: str, world: Path, before_step: Callable[..., None]
) -> None:
    tune(["projector"], ["projector", "encoder"])
    tones.change("params.yaml", {"train.curriculum.1.freeze": freeze})
    assert_refused(pattern, before_step)


def test_patterns_freeze_parameters_and_the_table_shows_it(
    world: Path, saved_models: list[SpeechLLM], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tune(["projector", "encoder", "lora"], steps=2)
    tones.change(
        "params.yaml",
        {
            "train.curriculum.0.freeze": [
                "encoder.model.encoder.layers.0.*",
                "projector.linear1.bias",
                "*.q_proj.lora_A*",
            ]
        },
    )
    run()
    before, after = (
        bases(),
        {plain_name(name): parameter for name, parameter in saved_models[0].named_parameters()},
    )
    unchanged = {
        name
        for name in before
        if name.startswith("encoder.") and torch.equal(before[name], after[name])
    }
    lower = {name for name in before if ".encoder.layers.0." in name}
    assert {name for name in unchanged if "ctc_head" not in name} == lower
    assert not [
        name for name in load_file(BRIDGE / "encoder.safetensors") if ".encoder.layers.0." in name
    ]
    [stage] = json.loads((BRIDGE / "parameters.json").read_text())
    rows = {(row["part"], row["module"]): row for row in stage["modules"]}
    assert stage["stage"] == "stage-0"
    assert (
        rows["encoder", "encoder.model.encoder.layers.0"]["trained"]
        == 0
        < rows["encoder", "encoder.model.encoder.layers.1"]["trained"]
    )
    assert sum(row["parameters"] for row in rows.values()) == sum(
        parameter.numel() for parameter in after.values()
    )
    lora = [row for row in rows.values() if row["part"] == "LLM LoRA"]
    assert sum(row["trained"] for row in lora) == sum(
        parameter.numel()
        for name, parameter in after.items()
        if "lora_" in name and "q_proj.lora_A" not in name
    )
    assert (
        rows["projector", "projector.linear1"]["trained"]
        == after["projector.linear1.weight"].numel()
    )
    assert [row["trained"] for row in rows.values() if row["part"] == "LLM"] == [0] * 4, (
        "two equal layers are one row"
    )
    log = caplog.text
    assert log.count("parameters in stage 'stage-0'") == 1
    assert "LLM: llm.model.layers.0-1" in log


def test_frozen_and_tuned_encoders_start_from_the_same_loss(world: Path) -> None:
    """Cached frames, live ones of a frozen encoder, and live ones of an encoder that hardly moves:
    one loss within 0.1 %.
    """
    slow = {"train.full.encoder": 1e-9, "train.lora.dropout": 0.0, "train.lora.learning_rate": 1e-9}
    losses = {}
    for name, mode, parts in (
        ("cached", "cached", []),
        ("live", "live", []),
        ("tuned", "live", ["encoder"]),
    ):
        tune(["projector", *parts], features__mode=mode)
        tones.change("params.yaml", {**slow, "train.curriculum.0.learning_rate": 1e-9})
        run()
        lines = Path("metrics/curve.csv").read_text().splitlines()[1:]
        losses[name] = [float(line.split(",")[2]) for line in lines]
    assert losses["live"] == pytest.approx(losses["cached"], rel=1e-3)
    assert losses["tuned"] == pytest.approx(
        losses["live"], rel=1e-4
    )  # another kernel of attention, before wide random weights


def test_cached_frames_are_refused_by_a_bridge_with_a_tuned_encoder(world: Path) -> None:
    tune(["projector", "encoder-lora"], steps=1)
    run()
    tones.change(
        "params.yaml", {"features.mode": "cached", "train.curriculum.0.tune": ["projector"]}
    )
    tones.run_features()
    with pytest.raises(InputError, match=r"features\.mode"):
        tones.run("decode")


def test_another_layer_than_the_encoder_was_tuned_on_is_refused(world: Path) -> None:
    tune(["projector", "encoder-lora"], steps=1)
    run()
    tones.change("params.yaml", {"features.layer": 1})
    tones.run_features()
    with pytest.raises(InputError, match=r"layer 1.*layer last.*dvc repro"):
        tones.run("decode")


def test_a_layer_below_the_last_tunes_the_layers_below_it(
    world: Path, saved_models: list[SpeechLLM]
) -> None:
    tune(["projector", "encoder"], steps=1, features__layer=1)
    run()
    names = set(load_file(BRIDGE / "encoder.safetensors"))
    assert [name for name in names if ".layers.0.self_attn" in name]
    assert not [name for name in names if ".encoder.layers.1." in name or "ctc_head" in name]


def test_fully_tuned_networks_are_in_fp32(world: Path, saved_models: list[SpeechLLM]) -> None:
    tones.change("catalogue/llm.yaml", {"tiny.numerics.dtype": "bfloat16"})
    tones.change("catalogue/encoder.yaml", {"tiny.numerics.dtype": "bfloat16"})
    for parts, dtypes in (
        (["llm", "encoder"], {torch.float32}),
        (["lora", "encoder-lora"], {torch.bfloat16, torch.float32}),
    ):
        tune(["projector", *parts], steps=1)
        run()
        assert {parameter.dtype for parameter in saved_models[-1].parameters()} == dtypes
        again = SpeechLLM.load(BRIDGE, tones.ENCODER, tones.LLM, "cpu")
        assert {parameter.dtype for parameter in again.parameters()} == dtypes


@pytest.mark.parametrize("family", ["parakeet", "hubert-layer-norm"])
def test_the_ctc_loss_weighs_in_by_its_formula_and_moves_encoder_and_head(
    family: str, world: Path, saved_models: list[SpeechLLM], before_step: Callable[..., None]
) -> None:
    """Each step's value against torch's own loss, one utterance at a time; the LLM's loss does not
    reach the head.
    """
    use_encoder(family)
    expected: list[float] = []

    @torch.no_grad()
    def formula(
        encoder: SpeechEncoder, examples: Any, speech: FrameSource, silence: FrameSource
    ) -> float:
        values = []
        for item, is_speech in examples:
            frames = (speech if is_speech else silence).frames([item])[0]
            ids = encoder.tokenizer(item.entry.text).input_ids if is_speech else []
            scores = encoder.head(frames[None])[0].log_softmax(-1)
            loss = torch.nn.functional.ctc_loss(
                scores[:, None],
                torch.tensor([ids], dtype=torch.long),
                torch.tensor([len(frames)]),
                torch.tensor([len(ids)]),
                blank=0,
                reduction="sum",
            )
            if torch.isfinite(loss):
                values.append(float(loss) / len(frames))
        return sum(values) / len(examples)

    def note(objective: StageObjective, step: int, examples: Any) -> None:
        encoder, forward = objective.context.model.eval().encoder, objective.forward
        expected.append(formula(encoder, examples, forward.speech, forward.nonspeech))

    before_step(note)
    tune(["projector", "encoder"], steps=4, train__ctc_weight=0.5)
    run()
    lines = [line.split(",") for line in Path("metrics/curve.csv").read_text().splitlines()]
    assert [float(line[lines[0].index("ctc")]) for line in lines[1:]] == pytest.approx(
        expected, rel=1e-3, abs=1e-6
    )
    head = "ctc_head" if family == "parakeet" else "lm_head"
    before, after = (
        bases(),
        {plain_name(name): parameter for name, parameter in saved_models[0].named_parameters()},
    )
    assert all(
        not torch.equal(before[name], after[name])
        for name in before
        if f"encoder.model.{head}" in name
    )
    assert [name for name in load_file(BRIDGE / "encoder.safetensors") if head in name]


def test_the_ctc_loss_by_itself_reaches_the_encoder(world: Path) -> None:
    encoder = SpeechEncoder(tones.ENCODER)
    for parameter in encoder.parameters():
        parameter.requires_grad_(True)
    tones.change("params.yaml", {"features.mode": "live"})
    tones.run("features", "train")
    source = FrameSource("train", tones.ENCODER, "cpu", encoder=encoder)
    head, items = CtcHead(encoder), source.utterances[:2]
    head.loss(
        source.frames(items), [head.encode(item.entry.text) or [] for item in items]
    ).backward()
    missing = [
        name
        for name, parameter in encoder.named_parameters()
        if parameter.grad is None or not torch.isfinite(parameter.grad).all()
    ]
    assert not missing
    assert (
        sum(
            float(parameter.grad.abs().sum()) > 0
            for parameter in encoder.parameters()
            if parameter.grad is not None
        )
        > 20
    )


def relabel(change: Callable[[int, str], str]) -> None:
    """Other transcripts for the train role: ``change`` of number and text."""
    original = tones.utterances

    def utterances(*arguments: Any) -> Any:
        return [
            type(member)(**{**vars(member), "text": change(number, member.text)})
            for number, member in enumerate(original(*arguments))
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tones, "utterances", utterances)
        tones.write_shards("train", tones.LAYOUT["train"])


def test_transcripts_that_the_head_can_not_write_are_counted(
    world: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One transcript in each of three tars has a letter that the head does not have; case is that
    of the head. The run stops where most have no path.
    """
    caplog.set_level("INFO")
    relabel(lambda number, text: {0: f"{text} £"}.get(number, f"{text} " * 40))
    tune(["projector", "encoder"], steps=2, train__ctc_weight=0.5)
    with pytest.raises(InputError, match=r" 3 of 12 .* [3-9] more units than frames") as stopped:
        run()
    assert stopped.value.subject == "train.ctc_weight"
    assert stopped.value.hint
    relabel(lambda number, text: {0: f"{text} £"}.get(number, text.upper()))
    run()
    log = caplog.text
    assert re.search(r" 3 of 12 .* 0 more units than frames", log)


def test_settings_are_checked_with_one_pass_for_each_kind_of_loss(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of stages."""
    passes: list[int] = []
    gradients, check = SpeechEncoder.parameters_with_gradient, TrainableParts.check

    def count(self: SpeechEncoder) -> list[str]:
        passes[-1] += 1
        return gradients(self)

    def check_and_count(self: TrainableParts) -> None:
        passes.append(0)
        check(self)
        passes.append(0)

    monkeypatch.setattr(SpeechEncoder, "parameters_with_gradient", count)
    monkeypatch.setattr(TrainableParts, "check", check_and_count)
    parts = ["projector", "encoder"]
    tune(["projector"], parts, parts, ["projector"], steps=1, train__ctc_weight=0.5)
    run()
    assert passes[0] == 2


def test_a_base_that_is_tuned_without_a_gradient_stops(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SpeechEncoder.parameters_with_gradient
    monkeypatch.setattr(
        SpeechEncoder,
        "parameters_with_gradient",
        lambda self: [*original(self), "model.ctc_head.weight"],
    )
    tune(["projector", "encoder"])
    with pytest.raises(InputError, match=r"'encoder\.model\.ctc_head\.weight'.*freeze"):
        run()
