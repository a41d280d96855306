"""The house rules that hold for all rooms: names, imports, dependencies, sizes, and what is never
used.
"""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

from components.config.errors import InputError, TransientError
from components.config.params import NAMES
from tests.conftest import REPOSITORY

STAGES = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
GROUND = ("config", "runtime", "audio", "text", "optim", "model", "search")
# A later room may import an earlier one, never the reverse.
ORDER = (
    *GROUND,
    "corpus",
    "splits",
    "shards",
    "encoder",
    "llm",
    "features",
    "ctc",
    "units",
    "train",
    "decode",
    "score",
    "report",
    "plan",
    "transcribe",
)
COMMANDS = {"plan", "transcribe"}  # rooms of their own that no stage runs
FLOORS = (
    "folders",
    "encoders",
    "bridges",
    "llms",
    "",
)  # of the room of models, one above the other; modules beside them last
MODELS = {
    "optim",
    "model",
    "search",
    "encoder",
    "llm",
    "features",
    "ctc",
    "units",
    "train",
    "decode",
    "plan",
    "transcribe",
}  # rooms that may use torch and transformers
CODE = sorted(
    path
    for top in ("libretto", "components", "flows", "bench")
    for path in (REPOSITORY / top).rglob("*.py")
)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache
def name_of(path: Path) -> str:
    """Dotted name of a module; a package's is that of its folder."""
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in CODE}


def imported(nodes: Iterator[ast.AST] | ast.Module) -> set[str]:
    """Dotted names that imports among ``nodes`` name, inside functions too where a whole tree is
    given.
    """
    found = set()
    for node in ast.walk(nodes) if isinstance(nodes, ast.Module) else nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def room(module: str) -> str:
    """The package of ``components`` that holds a module."""
    return module.split(".")[1] if "." in module else ""


def reached(module: str) -> set[str]:
    """Modules of ``components`` that one imports; all of its own room where it picks them by name
    when it runs.
    """
    names = imported(tree(MODULES[module]))
    picks = any(
        isinstance(node, ast.Call) and called(node) == "import_module"
        for node in ast.walk(tree(MODULES[module]))
    )
    own = {name for name in MODULES if picks and room(name) == room(module)}
    return own | {name for name in names if name in MODULES and name.startswith("components.")}


def modules_needed(stage: str) -> set[str]:
    """Modules of ``components`` that the stage's package imports, directly or through another
    module; packages without code left out.
    """
    todo, seen = (
        [name for name in MODULES if room(name) == stage and name.startswith("components.")],
        set(),
    )
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += reached(module)
    return {module for module in seen if tree(MODULES[module]).body[1:]}


def called(call: ast.Call) -> str:
    """The name that is called: ``f`` for ``f()``, ``a.f`` for ``a.f()``, the last parts of a longer
    one.
    """
    if isinstance(call.func, ast.Attribute):
        above = call.func.value
        return (
            f"{above.id}.{call.func.attr}" if isinstance(above, ast.Name) else f"….{call.func.attr}"
        )
    return call.func.id if isinstance(call.func, ast.Name) else ""


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_package_and_a_folder_of_tests(stage: str) -> None:
    command = STAGES[stage]["cmd"].split()
    assert command[:3] == ["python", "-m", f"components.{stage}"]
    assert (REPOSITORY / "components" / stage / "__main__.py").is_file()
    assert (REPOSITORY / "components" / stage / "__init__.py").is_file()
    assert list((REPOSITORY / "tests" / stage).glob("test_*.py")), f"tests/{stage} holds no test"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_its_section_of_parameters_where_there_is_one(stage: str) -> None:
    """A stage may also read single keys of another section."""
    entries = [entry for entry in STAGES[stage].get("params", []) if isinstance(entry, str)]
    listed = [entry for entry in entries if "." not in entry]
    assert listed == ([stage] if stage in PARAMS and stage not in NAMES else [])


def test_every_package_is_a_stage_a_command_or_the_ground_floor() -> None:
    packages = {path.parent.name for path in (REPOSITORY / "components").glob("*/__init__.py")}
    assert packages == {*STAGES, *GROUND, *COMMANDS} == set(ORDER)
    assert PARAMS.keys() <= {*STAGES, *NAMES}


def code_dependencies(stage: str) -> list[str]:
    return [path for path in STAGES[stage]["deps"] if path.startswith("components/")]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_it_reaches_and_no_more(stage: str) -> None:
    """Too few: an edit of what it imports would leave an old result for a new one. Too many: an
    edit elsewhere reruns it.
    """
    reached_files = {
        MODULES[module].relative_to(REPOSITORY).as_posix() for module in modules_needed(stage)
    }
    covered = {
        path: {file for file in reached_files if file == path or file.startswith(f"{path}/")}
        for path in code_dependencies(stage)
    }
    missing = reached_files - set().union(*covered.values())
    assert not missing, f"dvc.yaml, {stage}: deps miss {sorted(missing)}"
    assert all(covered.values()), (
        f"dvc.yaml, {stage}: never reached: {[path for path in covered if not covered[path]]}"
    )


def imported_at_runtime(path: Path) -> set[str]:
    """The imports of a module, inside functions too, without those for its annotations alone."""
    for_types = {
        id(node)
        for block in ast.walk(tree(path))
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    return imported(node for node in ast.walk(tree(path)) if id(node) not in for_types)


def test_no_modules_import_each_other_in_a_circle() -> None:
    imports = {name: imported_at_runtime(path) & MODULES.keys() for name, path in MODULES.items()}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the modules


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("components.")])
def test_imports_run_one_way(module: str) -> None:
    own = room(module)
    for other in {room(name) for name in reached(module)} - {own, ""}:
        assert own not in ORDER or ORDER.index(other) < ORDER.index(own), (
            f"{module} imports of {other}"
        )


@pytest.mark.parametrize(
    "module", [name for name in MODULES if name.startswith("components.model.")]
)
def test_imports_run_one_way_within_the_room_of_models(module: str) -> None:
    for other in (name for name in reached(module) if name.startswith("components.model.")):
        assert FLOORS.index(floor_of(other)) <= FLOORS.index(floor_of(module)), (
            f"{module} imports {other}"
        )


def floor_of(module: str) -> str:
    """The package within the room of models that holds a module; empty for those beside the
    packages.
    """
    above = module.split(".")[2]
    return above if above in FLOORS else ""


def test_components_never_import_prefect_or_dvc() -> None:
    for module, path in MODULES.items():
        tops = {name.split(".")[0] for name in imported(tree(path))}
        if module.startswith("components"):
            assert not tops & {"prefect", "dvc", "flows", "libretto"}, module


def test_only_the_rooms_of_models_use_torch() -> None:
    for module, path in MODULES.items():
        tops = {name.split(".")[0] for name in imported(tree(path))}
        if tops & {"torch", "transformers", "peft", "safetensors"} and module not in (
            "components.runtime.settings",
            "components.runtime.world_size",
            "components.runtime.torchaudio_extension",
            "components.audio.augmentation",
        ):  # they ask for the GPUs, or hand torchaudio its tensors
            assert room(module) in MODELS or module.startswith("bench"), module


def test_what_the_gpu_machine_lacks_is_imported_inside_functions() -> None:
    for module, path in MODULES.items():
        top = {name.split(".")[0] for name in imported(iter(tree(path).body))}
        assert module.startswith("flows") or not top & {
            "webdataset",
            "jiwer",
            "espeakng_loader",
        } - allowed(module), module


def allowed(module: str) -> set[str]:
    return {"espeakng_loader"} if module == "components.corpus.generation.espeak" else set()


BLOCK = """
import sys
for name in {blocked}:
    sys.modules[name] = None
from importlib import import_module
for name in {modules}:
    import_module(name)
print(len({modules}))
"""


def import_without(blocked: list[str], rooms: set[str], more: str = "no other") -> None:
    """Imports every module of some rooms, and those whose names begin with ``more``, in a process
    that lacks some libraries.
    """
    modules = sorted(
        name
        for name in MODULES
        if (name.startswith("components.") and room(name) in rooms) or name.startswith(more)
    )
    script = BLOCK.format(blocked=blocked, modules=modules)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(modules) > 2 * len(rooms)


def test_what_runs_on_the_gpu_imports_without_the_pipeline() -> None:
    import_without(
        ["dvc", "prefect", "webdataset", "jiwer"],
        {
            "model",
            "features",
            "ctc",
            "units",
            "train",
            "encoder",
            "llm",
            "decode",
            "shards",
            "transcribe",
        },
        "bench",
    )


def test_a_stage_starts_without_torch() -> None:
    """What is finished is relinked in seconds, so the process that starts the workers must not wait
    for torch; nor must who mistyped a parameter of a command.
    """
    starts = [
        "encoder.build",
        "llm.build",
        "train.build",
        "features.extract",
        "ctc.build",
        "units.build",
        "decode.run",
        "shards.build",
        "transcribe.__main__",
        "transcribe.export",
        "plan.__main__",
    ]
    script = BLOCK.format(
        blocked=["torch", "transformers", "peft"], modules=[f"components.{name}" for name in starts]
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr


def test_what_handles_data_imports_without_torch() -> None:
    import_without(
        ["torch", "transformers", "peft"],
        {"config", "runtime", "audio", "text", "corpus", "splits", "shards", "score", "report"},
    )


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_a_module_is_named_by_a_noun_and_of_a_readable_size(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}
    assert len(path.read_text().splitlines()) <= 350
    assert ast.get_docstring(tree(path)) or not tree(path).body, (
        "a module says what goes in and what comes out"
    )


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_nothing_runs_code_out_of_data(path: Path) -> None:
    tops = {name.split(".")[0] for name in imported(tree(path))}
    assert not tops & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            where = f"line {node.lineno}"
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            if (
                name_of(path) == "components.model.folders.conversion"
                and called(node) == "torch.load"
            ):
                assert ast.literal_eval(given["weights_only"]) is True, where
                continue
            if called(node) == "yaml.load":  # safe_load with the C parser
                assert ast.unparse(given["Loader"]) == "yaml.CSafeLoader", where
                continue
            assert called(node) not in {
                "eval",
                "exec",
                "compile",
                "torch.load",
                "torch.save",
                "yaml.unsafe_load",
            }, where
            for name in ("allow_pickle", "shell", "trust_remote_code"):
                assert name not in given or ast.literal_eval(given[name]) is False, where


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_an_error_says_what_to_do(path: Path) -> None:
    errors = {error.__name__ for error in (InputError, TransientError)}
    for call in ast.walk(tree(path)):
        if isinstance(call, ast.Call) and called(call) in errors:
            given = {keyword.arg for keyword in call.keywords}
            assert given & {"hint", None}, f"{path}:{call.lineno}: an error without a hint"


def test_dvc_sends_nothing_home_and_links_its_cache() -> None:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / ".dvc" / "config")
    assert config.getboolean("core", "analytics") is False
    assert config.getboolean("core", "check_update") is False
    # Only where hard links stand first does DVC take an output into its cache without a copy of it.
    assert config["cache"]["type"].strip("\"'").split(",") == [
        "hardlink",
        "reflink",
        "symlink",
        "copy",
    ]


def test_no_stage_depends_on_runtime_settings() -> None:
    text = (REPOSITORY / "dvc.yaml").read_text()
    assert "LIBRETTO_" not in text
    assert not [
        path
        for stage in STAGES.values()
        for path in [*stage["deps"], *stage["outs"]]
        if Path(str(path)).is_absolute()
    ]


# Words that a reader from another lab cannot search for. As a whole name, and as a part of one.
BARE = """
each found place places placed held hold holds heard hears hearing known knows wanted wants shown
shows show kept keep keeps said say says told tell tells made makes whole stand stands standing hung
sped strung misread mine turns fresh contents stated typed announce ahead patiently meeting seats
apart beside lies lie there here alike alone around taken takes lacking begun rest others within
lost thing things what whose how asks asked reach extended bears fits quiet spoken laid bench
unheard unasked way_out
"""
PARTS = """
heard hears hearing unheard unasked hung told said sped strung misread patiently wanted shown kept
held stands
"""


def bound_names(path: Path) -> Iterator[tuple[str, int]]:
    """Every name that a module binds: functions, classes, arguments, variables, attributes."""
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_names_are_words_of_the_field(path: Path) -> None:
    private = [
        f"line {line}: {name}"
        for name, line in bound_names(path)
        if name.strip("_").lower() in BARE.split()
        or set(PARTS.split()) & set(re.split(r"_|(?<=[a-z])(?=[A-Z])", name.strip("_").lower()))
    ]
    assert not private


def test_a_class_name_is_used_once() -> None:
    names = Counter(
        node.name
        for path in CODE
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, count in names.items() if count > 1]
