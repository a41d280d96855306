"""A result depends on the code that computes it: keys of the work cache change with that code, and
with nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from components.runtime import settings
from components.runtime.code_digest import (
    SCHEDULING,
    CodeDigest,
    code_digest,
    parse_module,
    source_file,
)
from components.train import build, stage_cache
from tests.conftest import REPOSITORY

PLAIN = """
import numpy

def f(x):
    return x + 1
"""
SAME = '''
"""A module docstring."""
import numpy  # arrays


def f(x):
    """Adds one."""
    # A comment.
    return (x + 1)
'''


def tree(source: str) -> str:
    return parse_module(source).tree


def imports(source: str) -> list[str]:
    return parse_module(source).imports


def test_comments_docstrings_and_layout_do_not_count() -> None:
    assert tree(PLAIN) == tree(SAME)


@pytest.mark.parametrize(
    "changed", [PLAIN.replace("+ 1", "+ 2"), PLAIN.replace("x", "y"), "", "f = 1"]
)
def test_code_counts(changed: str) -> None:
    assert tree(PLAIN) != tree(changed)


def test_imports_count_wherever_they_run() -> None:
    assert "components.a" in imports("def f():\n    from components import a\n")
    assert "components.a.b" in imports("import components.a.b as c")
    assert "components.a.b" in imports('KINDS = {"b": "components.a.b:build"}')
    checked = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from components import a\n"
    assert "components.a" not in imports(checked)
    assert "components.a" not in imports(checked.replace("if TYPE", "if typing.TYPE"))
    unchecked = checked.replace("if TYPE", "if not TYPE")
    assert "components.a" in imports(unchecked)
    assert tree(unchecked) != tree(unchecked.replace("import a", "import b"))
    assert imports('"""components.a"""') == imports('raise ValueError("see components.a")') == []


def test_a_module_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError):
        code_digest("components.nowhere")
    assert source_file("numpy") is None


def test_libraries_that_compute_are_named_with_their_versions() -> None:
    assert {"torch", "transformers", "numpy"} <= code_digest(
        "components.train.curriculum"
    ).libraries.keys()
    assert "transformers" not in code_digest("components.corpus.sources.spoken").libraries
    spoken = code_digest("components.corpus.sources.spoken").libraries
    assert {"espeakng-loader", "soxr", "soundfile"} <= spoken.keys()


def test_a_library_that_only_the_runtime_imports_computes_nothing() -> None:
    """``components.runtime.settings`` asks torch whether there is a GPU."""
    assert "torch" in imports(Path(settings.__file__).read_text())
    for module in ("components.corpus.inspection", "components.shards.build"):
        assert "torch" not in code_digest(module).libraries


def test_modules_that_schedule_exist() -> None:
    assert all(map(source_file, SCHEDULING))


class Workspace:
    """A copy of what stages run on, with a work cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder / "copy", folder / "cache"
        for name in ("components", "catalogue", "data/sources"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, self.folder / name, ignore=ignored)
        for name in ("params.yaml", "dvc.yaml"):
            shutil.copy(REPOSITORY / name, self.folder)
        params = (self.folder / "params.yaml").read_text()
        params = params.replace("corpus: spoken ", "corpus: spoken-smoke ", 1)
        (self.folder / "params.yaml").write_text(params)

    def python(self, *arguments: str) -> str:
        environment = {**os.environ, "LIBRETTO_WORK": str(self.cache), "PYTHONPATH": "."}
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / "components" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def digest(self, module: str) -> CodeDigest:
        script = (
            "import json; from components.runtime.code_digest import code_digest; "
            f"print(json.dumps(code_digest('{module}')))"
        )
        return CodeDigest(*json.loads(self.python("-c", script)))

    def manifests(self) -> dict[str, bytes]:
        """What the stage corpus writes for the role nonspeech-test, with the code as it is."""
        self.python(
            "-m", "components.corpus", "--corpus", "spoken-smoke", "--role", "nonspeech-test"
        )
        folder = self.folder / "data/corpus/nonspeech-test"
        return {path.name: path.read_bytes() for path in folder.rglob("*.*")}

    def units(self) -> set[Path]:
        return set((self.cache / "audio").glob("*/*"))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_a_generator_that_was_edited_is_not_served_its_old_output(workspace: Workspace) -> None:
    before = workspace.manifests()
    workspace.edit(
        "corpus/sources/synthetic.py",
        "seed, plan.seconds, plan.level_db)",
        "seed, plan.seconds, plan.level_db - 20)",
    )
    after = workspace.manifests()
    shutil.rmtree(workspace.cache)
    assert after == workspace.manifests() != before


def test_an_edit_of_a_comment_relinks_everything(workspace: Workspace) -> None:
    before, units = workspace.manifests(), workspace.units()
    times = {unit: (unit / "unit.json").stat().st_mtime_ns for unit in units if unit.is_dir()}
    workspace.edit("corpus/sources/synthetic.py", "\nfrom ", "\n# A comment.\nfrom ")
    workspace.edit("audio/sound.py", "\nfrom ", "\n# Another comment.\nfrom ")
    assert workspace.manifests() == before
    assert workspace.units() == units and times
    assert times == {unit: (unit / "unit.json").stat().st_mtime_ns for unit in times}


def test_the_description_of_a_field_is_no_code() -> None:
    field = 'width: Annotated[int, Field(ge={}, description="{}")]'
    digest = parse_module(field.format(1, "Width.")).tree
    assert parse_module(field.format(1, "Width of a layer.")).tree == digest
    assert parse_module(field.format(2, "Width.")).tree != digest


def test_an_edit_of_the_search_reruns_decoding_and_no_features(workspace: Workspace) -> None:
    modules = ("components.features.extract", "components.encoder.ctc", "components.shards.build")
    before = {module: workspace.digest(module) for module in (*modules, "components.decode.shard")}
    workspace.edit("search/beam.py", "\nimport ", "\nSIZE = 1\nimport ")
    after = {module: workspace.digest(module) for module in before}
    assert {module for module in before if after[module] != before[module]} == {
        "components.decode.shard"
    }


def test_an_edit_of_what_schedules_or_displays_recomputes_nothing(workspace: Workspace) -> None:
    modules = ("components.features.extract", "components.corpus.inspection", stage_cache.CODE)
    before = {module: workspace.digest(module) for module in modules}
    for name in ("pool", "progress"):
        workspace.edit(f"runtime/{name}.py", "\nimport ", "\nSIZE = 1\nimport ")
    assert {module: workspace.digest(module) for module in modules} == before
    workspace.edit("runtime/hashing.py", "\nimport ", "\nSIZE = 1\nimport ")
    after = {module: workspace.digest(module) for module in modules}
    assert all(after[module] != before[module] for module in modules)


def test_an_edit_of_the_dtypes_of_a_training_trains_anew(workspace: Workspace) -> None:
    before = workspace.digest(stage_cache.CODE)
    assert build.BridgeTask.__module__ == stage_cache.CODE
    workspace.edit("train/task.py", '"float32" if is_llm_tuned', '"float16" if is_llm_tuned')
    assert workspace.digest(stage_cache.CODE) != before


CHECKPOINT = """
from components.model.folders.folder import cache_local_checkpoint
print(cache_local_checkpoint("llm", "own", "own"))
"""


def test_a_checkpoint_depends_on_the_conversion_of_weights_and_not_on_the_client_of_the_hub(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/config.json").write_text("{}")
    save_file({"weight": np.zeros(2, np.float32)}, tmp_path / "own/model.safetensors")
    monkeypatch.setenv("LIBRETTO_MODELS", str(tmp_path))
    before = workspace.python("-c", CHECKPOINT)
    workspace.edit("model/folders/hub.py", "\nimport ", "\nSIZE = 1\nimport ")
    assert workspace.python("-c", CHECKPOINT) == before
    workspace.edit("model/folders/conversion.py", "\nimport ", "\nSIZE = 1\nimport ")
    assert workspace.python("-c", CHECKPOINT) != before


def test_what_reads_a_checkpoint_does_not_depend_on_the_client_of_the_hub(
    workspace: Workspace,
) -> None:
    modules = ("components.features.extract", "components.decode.shard", stage_cache.CODE)
    before = {module: workspace.digest(module) for module in modules}
    workspace.edit("model/folders/hub.py", "\nimport ", "\nSIZE = 1\nimport ")
    assert {module: workspace.digest(module) for module in modules} == before


def test_a_record_of_another_parser_is_not_read(workspace: Workspace) -> None:
    module = "components.model.folders.conversion"
    before = workspace.digest(module)
    workspace.edit(
        "runtime/code_digest.py", "ast.dump(tree).encode()", "ast.dump(tree, indent=1).encode()"
    )
    after = workspace.digest(module)
    shutil.rmtree(workspace.cache)
    assert after == workspace.digest(module) != before


def test_a_digest_is_kept_by_content_and_a_broken_record_is_made_anew(
    workspace: Workspace,
) -> None:
    first = workspace.digest("components.shards.build")
    records = list((workspace.cache / "code").rglob("*.json"))
    assert len(records) > 20
    for record in records:
        record.write_text("{")
    assert workspace.digest("components.shards.build") == first
