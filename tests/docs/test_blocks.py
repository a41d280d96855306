"""The fenced blocks of the pages: commands are parsed by the parsers of the commands, Python is
parsed and its imports are resolved, YAML is loaded, and cheap commands are run.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest
import yaml

from components.config import catalogue
from tests.conftest import REPOSITORY

from .markdown import PAGES, Block, blocks

BLOCKS = [block for page in PAGES for block in blocks(page)]
LANGUAGES = {"bash", "python", "yaml", "text", "ini", "dockerfile", "diff"}
DIRECTIVE = re.compile(r"\{[\w-]+\}")  # of the site
OPERATORS = {"&&", "||", ";", "|"}
OTHER_PROGRAMS = {
    *("git", "export", "source", "cd", "ffmpeg", "docker", "helm", "prefect", "ray", "pip"),
    *("pre-commit", "uv"),
}
# Run as they are; each takes seconds.
CHEAP = (
    "libretto --version",
    "libretto use",
    "libretto use smoke --dry-run",
    "libretto score",
    "libretto completion bash",
    "python -m flows.compare slam-asr --dry-run",
    "python -m flows.compare slam-asr-table-3 --dry-run",
    "python -m flows.compare conditions --dry-run",
)


def of_language(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def commands(block: Block) -> list[list[str]]:
    """The simple commands of a shell block, without assignments before them."""
    simple_commands: list[list[str]] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in OPERATORS:
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words = words[1:]
                simple_commands += [words] if words else []
                words = []
            else:
                words.append(word)
    return simple_commands


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """``docs/commands.py``, which finds the parser of a command."""
    spec = importlib.util.spec_from_file_location("commands", REPOSITORY / "docs/commands.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_pip(arguments: list[str]) -> str:
    """Why pip would refuse its arguments: a file that is not there, or an unknown option."""
    from pip._internal.commands import create_command

    options, _ = create_command(arguments[0]).parse_args(arguments[1:])
    files = [*options.requirements, *options.editables]
    missing = [name for name in files if not (REPOSITORY / name).exists()]
    return f"no such file: {missing}" if missing else ""


def check(words: list[str], reference: ModuleType) -> str:
    """Why a command would be refused; empty if its program accepts it."""
    words = [words[0].removeprefix(".venv/bin/").replace("python3", "python"), *words[1:]]
    program, *arguments = words
    if words[:3] == ["python", "-m", "venv"]:
        return "" if arguments[2:] == [".venv"] else "a name that 'make' does not know"
    if program == "pip":
        return check_pip(arguments)
    try:
        if program in ("python", "pytest", "libretto"):
            return check_python(words, reference)
        if program == "make":
            targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.M)
            return "" if set(arguments) <= set(targets) else "no such target"
        if program == "dvc":
            from dvc.cli.parser import DvcParser, get_main_parser

            def refuse(parser: DvcParser, message: str, *_: object) -> None:
                sys.exit(message)  # its own would log the message

            with patch.object(DvcParser, "error", refuse):
                get_main_parser().parse_args(arguments)
            return ""
    except SystemExit as error:
        return f"refused with {error.code}" if error.code else ""
    if program.startswith((".ci/", "./")):
        return "" if (REPOSITORY / program).is_file() else "no such file"
    return "" if program in OTHER_PROGRAMS else "unknown program"


def check_python(words: list[str], reference: ModuleType) -> str:
    program, *arguments = words
    if program == "libretto":
        from libretto.commands import run_command

        with contextlib.suppress(reference.ParseStop), reference.parsing_only(True):
            run_command(arguments)
        return ""
    if program == "pytest" or arguments[:2] == ["-m", "pytest"]:
        paths = [word for word in arguments if word.startswith("tests/")]
        return "" if all((REPOSITORY / path).exists() for path in paths) else "no such test"
    if arguments[0] != "-m":
        if not (REPOSITORY / arguments[0]).is_file():
            return "no such script"
        stop = contextlib.suppress(reference.ParseStop)
        with stop, reference.parsing_only(True), patch.object(sys, "argv", arguments):
            runpy.run_path(str(REPOSITORY / arguments[0]), run_name="__main__")
        return ""
    if arguments[1] in ("pip", "http.server"):
        return ""
    reference.find_parser(arguments[1], arguments[2:], parse=True)
    return ""


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_has_a_language_that_is_checked(block: Block) -> None:
    assert block.language in LANGUAGES or DIRECTIVE.match(block.language), block.language


def test_every_command_is_accepted(
    reference: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One test, since importing the commands takes most of its time."""
    monkeypatch.chdir(REPOSITORY)
    refused = []
    for block in of_language("bash"):
        if block.page.parent.name == "howto":  # run in test_howto, with what the guide adds
            continue
        for words in commands(block):
            if reason := check(words, reference):
                refused.append(f"{block}: {shlex.join(words)}: {reason}")
                refused += capsys.readouterr().err.splitlines()[-1:]
    assert not refused, "\n".join(refused)


def test_a_wrong_command_is_refused(reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    for line in (
        "libretto plan --gpuu h100",
        "libretto plann",
        "python -m components.score --corpuss spoken",
        "dvc reproduce",
        "make everything",
        "python examples/none.py",
        "unknown",
    ):
        assert check(shlex.split(line), reference), line


@pytest.mark.parametrize("block", of_language("python"), ids=str)
def test_python_parses_and_imports_what_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert getattr(module, alias.name) is not None


@pytest.mark.parametrize("block", of_language("yaml"), ids=str)
def test_yaml_loads(block: Block) -> None:
    text = block.text
    if re.search(r"[:{ ]\*[a-z]", text) and "&" not in text:  # anchors of the corpora
        text = (REPOSITORY / "catalogue/corpus.yaml").read_text() + text
    assert yaml.safe_load(text)


def test_the_corpus_of_ones_own_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (block for block in of_language("yaml") if block.text.startswith("my-recordings:"))
    (tmp_path / "catalogue").mkdir()
    text = (REPOSITORY / "catalogue/corpus.yaml").read_text() + block.text
    (tmp_path / "catalogue/corpus.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert catalogue.corpus("my-recordings").sources["test"]["mine"]["kind"] == "table"


def test_the_page_of_commands_is_up_to_date(
    reference: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    page = reference.page()
    assert page == reference.PAGE.read_text(), "run 'make reference'"


def test_the_pages_of_fields_are_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    runpy.run_path("docs/reference.py")["main"]([str(tmp_path)])
    for path in tmp_path.iterdir():
        assert path.read_text() == (REPOSITORY / "docs/reference" / path.name).read_text(), (
            "run 'make reference'"
        )


@pytest.mark.slow
@pytest.mark.parametrize("command", CHEAP)
def test_cheap_commands_run(command: str) -> None:
    used = [shlex.join(words) for block in of_language("bash") for words in commands(block)]
    assert command == "libretto --version" or command in used
    words = shlex.split(command.replace("libretto ", "python -m libretto ", 1))
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_without_a_server(tmp_path: Path) -> None:
    """No page loads a script, a style or a font of another server."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"),
            *("--builder", "html", "--doctree-dir", str(tmp_path / "trees")),
            *(str(REPOSITORY / "docs"), str(tmp_path / "html")),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "html").rglob("*.html"):
        text = path.read_text()
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\bsrc=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link[^>]*\bhref=\"([^\"]+)\"", text)
        assert not [url for url in loaded if "//" in url], path.name
    for path in (tmp_path / "html").rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", path.read_text()), path.name


def test_the_citation_is_of_this_version() -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]


def test_workflows_and_hooks_name_what_exists() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/checks.yml").read_text())
    steps = workflow["jobs"]["checks"]["steps"]
    assert any(step.get("run") == ".ci/run" for step in steps)
    actions = [step["uses"] for step in steps if "uses" in step]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in actions)
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
    for hook in hooks["repos"][0]["hooks"]:
        assert hook["entry"].startswith(".venv/bin/")
    for path in (REPOSITORY / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(path.read_text())
