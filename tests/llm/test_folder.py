"""A local LLM: the five lines of the guide, a folder, and the errors where they do not fit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.config import catalogue
from components.config.errors import InputError
from components.model.folders.linked_checkpoint import open_checkpoint
from components.model.llms.causal import load_llm
from components.model.llms.prompt import PromptBuilder
from tests import world as tones
from tests.checkpoints import save_llm
from tests.conftest import REPOSITORY

LINES = re.search(
    r"```yaml\n(my-llm:.*?)```", (REPOSITORY / "docs/guide/llms.md").read_text(), re.DOTALL
)


@pytest.fixture
def local_llm(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint below LIBRETTO_MODELS, the guide's lines in the catalogue, its name in
    ``params.yaml``.
    """
    folder = save_llm(tmp_path / "local/my-llm", "qwen3", form="qwen")
    (folder / "inputs.json").unlink()
    monkeypatch.setenv("LIBRETTO_MODELS", str(tmp_path / "local"))
    assert LINES, "docs/guide/llms.md has no entry to copy"
    with Path("catalogue/llm.yaml").open("a") as file:
        file.write(LINES[1])
    tones.change("params.yaml", {"llm": "my-llm"})
    return folder


def test_five_lines_and_a_folder_add_a_local_llm(local_llm: Path) -> None:
    assert LINES
    assert len(LINES[1].splitlines()) == 5
    command = [sys.executable, "-m", "components.llm", "--llm", "my-llm"]
    completed = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr
    entry = catalogue.llm("my-llm")
    llm, tokenizer = load_llm(open_checkpoint(tones.LLM), entry.numerics.dtype, "cpu")
    assert llm.config.model_type == "qwen3"
    builder = PromptBuilder(tokenizer, entry.prompt)
    assert tokenizer.decode([*builder.before, *builder.after]) == entry.prompt.template.replace(
        "{speech}", ""
    )
    assert tokenizer.decode(builder.eos) == "<|im_end|>"


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        (
            {"template": "<|user|> {speech}"},
            "<|user|>",
        ),
        (
            {"template": "{speech}", "eos": "<|eot_id|>"},
            "<|eot_id|>",
        ),
    ],
)
def test_a_prompt_with_tokens_that_the_tokenizer_does_not_have_stops_the_stage(
    prompt: dict, name: str, local_llm: Path
) -> None:
    tones.change("catalogue/llm.yaml", {"my-llm.prompt": prompt})
    with pytest.raises(InputError, match="llm 'my-llm'") as stopped:
        tones.run("llm")
    assert name in str(stopped.value)
    assert stopped.value.hint


def test_a_tokenizer_without_an_end_stops_the_stage(local_llm: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (local_llm / name).is_file():
            settings = json.loads((local_llm / name).read_text())
            (local_llm / name).write_text(
                json.dumps({key: value for key, value in settings.items() if key != "eos_token"})
            )
    with pytest.raises(InputError, match=r"llm 'my-llm'.*prompt\.eos"):
        tones.run("llm")


@pytest.mark.parametrize("bos", ["first", "after-speech", "none"])
def test_the_bos_has_one_of_three_positions(bos: str, local_llm: Path) -> None:
    prompt = {"template": "{speech}", "bos": bos}
    tones.change("catalogue/llm.yaml", {"my-llm.prompt": prompt})
    assert catalogue.llm("my-llm").prompt.bos == bos
    tones.change("catalogue/llm.yaml", {"my-llm.prompt": {**prompt, "bos": "last"}})
    with pytest.raises(InputError, match=r"catalogue/llm\.yaml: my-llm: 'prompt\.bos'.*'last'"):
        catalogue.llm("my-llm")


def test_a_template_that_would_run_into_the_transcript_stops_before_any_work(
    local_llm: Path,
) -> None:
    attached = {"template": "{speech} Say: ", "transcript": "attached"}
    tones.change("catalogue/llm.yaml", {"my-llm.prompt": attached})
    with pytest.raises(InputError, match="my-llm") as stopped:
        catalogue.llm("my-llm")
    assert stopped.value.subject == "prompt.template"
    assert stopped.value.hint
    tones.change("catalogue/llm.yaml", {"my-llm.prompt": {**attached, "template": "{speech} Say:"}})
    tones.run("llm")


@pytest.mark.parametrize(
    ("kind", "missing"),
    [("hub", "repo"), ("folder", "folder"), ("copying", "config"), ("copying", "training")],
)
def test_a_missing_field_of_a_source_is_named(kind: str, missing: str, local_llm: Path) -> None:
    trained = yaml.safe_load((REPOSITORY / "catalogue/llm.yaml").read_text())["llama-tiny"][
        "source"
    ]
    source = {
        "hub": {"repo": "a/b", "files": ["config.json"]},
        "folder": {"folder": "x"},
        "copying": trained,
    }[kind]
    tones.change("catalogue/llm.yaml", {"my-llm.source": {**source, "kind": kind}})
    assert catalogue.llm("my-llm").source.kind == kind
    tones.change(
        "catalogue/llm.yaml",
        {
            "my-llm.source": {key: value for key, value in source.items() if key != missing}
            | {"kind": kind}
        },
    )
    with pytest.raises(InputError, match=r"llm\.yaml: my-llm") as stopped:
        catalogue.llm("my-llm")
    assert stopped.value.subject == f"source.{missing}"
    assert stopped.value.hint
