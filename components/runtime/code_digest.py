"""Digest of the code that computes a result: a module and all that it imports from this project.

In: the name of a module. Out: one digest of its static import closure, from the syntax trees
without docstrings, comments and descriptions of fields, and the versions of the libraries that
compute. Both are a part of every key of the work cache, so an edit of code recomputes and an edit
of a comment does not. What only schedules or displays (``SCHEDULING``), or finds files by their
digests (``FINDING``), is left out.

Imports count wherever they are, inside functions too; those under ``if TYPE_CHECKING`` never run
and are left out. A string that names a module of the project (``"components.optim.rank"``) counts
as an import of it, since registries import by name. Cost: 2 ms a module at first; the work cache
stores digests of files by content, so a later process reads a small file for each module.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from components.runtime.hashing import data_digest
from components.runtime.settings import work_root

ROOT = Path(__file__).parents[2]  # of the packages of this project
PACKAGE = "components"
TYPE_CHECKS = ("TYPE_CHECKING", "typing.TYPE_CHECKING")  # conditions that hold in no process
MODULE_NAME = re.compile(rf"{PACKAGE}(\.\w+)+")
RUNTIME = f"{PACKAGE}.runtime."  # how and where: libraries that it imports compute no result
# Modules that decide where and in which order units run, or show that they do: not what they give.
SCHEDULING = frozenset(
    RUNTIME + name
    for name in (
        "devices",
        "logs",
        "pins",
        "pool",
        "processor",
        "progress",
        "ray_pool",
        "signals",
    )
)
# Finds the files of a checkpoint by their digests, which are in the keys of those who read them.
FINDING = frozenset({f"{PACKAGE}.model.folders.linked_checkpoint"})
# Distributions whose version can change a result, by the name that they are imported by.
COMPUTING_LIBRARIES = {
    "espeakng_loader": "espeakng-loader",
    "jiwer": "jiwer",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "peft": "peft",
    "pyarrow": "pyarrow",
    "rapidfuzz": "RapidFuzz",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "torchaudio": "torchaudio",
    "transformers": "transformers",
}


class ModuleDigest(NamedTuple):
    """What one source file adds to a closure."""

    tree: str  # SHA-256 of its syntax tree
    imports: list[str]  # dotted names that it imports, or names in a string


class CodeDigest(NamedTuple):
    """What a result depends on beside its inputs and parameters."""

    code: str  # SHA-256 over the closure
    libraries: dict[str, str]  # version by distribution


@cache
def code_digest(module: str) -> CodeDigest:
    """The digest of ``module`` (``components.encoder.ctc``) and of everything that it imports.

    Raises ModuleNotFoundError if the project has no such module.
    """
    closure, names = {}, [module]
    if source_file(module) is None:
        raise ModuleNotFoundError(module)
    libraries: set[str] = set()
    while names:
        name = names.pop()
        file = source_file(name)
        if file is None or name in closure or name in SCHEDULING | FINDING:
            continue
        digest = _module_digest(file)
        closure[name] = digest.tree
        names += [imported for imported in digest.imports if imported.startswith(PACKAGE)]
        if not name.startswith(RUNTIME):
            libraries |= {imported.partition(".")[0] for imported in digest.imports}
    used = sorted(libraries & COMPUTING_LIBRARIES.keys())
    distributions = [COMPUTING_LIBRARIES[name] for name in used]
    return CodeDigest(data_digest(closure), {name: version(name) for name in distributions})


def source_file(module: str) -> Path | None:
    """The file of a module or package of this project; None for any other dotted name."""
    path = ROOT.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def _module_digest(file: Path) -> ModuleDigest:
    """The digest of one file, from the work cache if that has it."""
    content = file.read_bytes()
    # The record depends on who wrote it: this module, and the syntax trees of this Python.
    writer = _own_source() + repr(sys.version_info[:2]).encode()
    name = hashlib.sha256(content + writer).hexdigest()
    cached = work_root() / "code" / name[:2] / f"{name}.json"
    try:
        return ModuleDigest(*json.loads(cached.read_text()))
    except (OSError, ValueError, TypeError):
        digest = parse_module(content.decode())
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(digest))
    partial.rename(cached)
    return digest


@cache
def _own_source() -> bytes:
    return Path(__file__).read_bytes()


class _Executed(ast.NodeTransformer):
    """Removes from a syntax tree what changes no result: docstrings, descriptions of fields and the
    imports of type checkers.
    """

    def visit(self, node: ast.AST) -> ast.AST:
        """The node without these parts; its children likewise."""
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        elif isinstance(node, ast.If) and ast.unparse(node.test) in TYPE_CHECKS:
            node.body = [ast.Pass()]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Field":
            node.keywords = [item for item in node.keywords if item.arg != "description"]
        return self.generic_visit(node)


def parse_module(source: str) -> ModuleDigest:
    """The digest of a module's syntax tree without docstrings, and what it imports."""
    tree = _Executed().visit(ast.parse(source))
    imports: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = str(node.module)
            imports |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            imports |= {name} if MODULE_NAME.fullmatch(name) else set()
    return ModuleDigest(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), sorted(imports))
