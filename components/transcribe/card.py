"""The card of an exported model: ``README.md`` with the header that model hubs read.

In: parameters, the catalogue's entries of those names, ``metrics/`` and
``models/bridge/parameters.json`` where they are there. Out: Markdown behind a YAML header (licence,
base models, data sets, results; https://huggingface.co/docs/hub/model-cards). Only named fields are
taken; paths of this machine and values of its environment are not among them. Cost: milliseconds.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from components.config import catalogue
from components.config.errors import InputError
from components.config.params import Params
from components.runtime.artifact import RECORD, read_record, recorded_digests
from components.transcribe.bases import is_trained_here
from components.transcribe.version import package_version, source_commit

SCORE, TRAIN, TABLE = (
    Path("metrics/score.json"),
    Path("metrics/train.json"),
    Path("models/bridge/parameters.json"),
)
SPOKEN = {
    "librispeech": "openslr/librispeech_asr",
    "mls": "facebook/multilingual_librispeech",
}  # data sets of a hub, by kind of source
LICENCES = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "BSD-3-Clause": "bsd-3-clause",
}  # as hubs spell them
OURS = "Apache-2.0"  # of the bridge
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY", re.IGNORECASE)
DECODED, SCORED = Path("data/decode"), Path("data/score")


def card_of(
    params: Params, shape: dict[str, Any], taken: Sequence[str], bridge: dict[str, str]
) -> str:
    """The text of the card; ``shape`` is what the bridge's ``config.json`` says, ``taken`` names
    the bases that lie in the folder, ``bridge`` holds the digests of its files: results of another
    one are left out.
    """
    entries: dict[str, Any] = {
        "encoder": catalogue.encoder(params.encoder),
        "llm": catalogue.llm(params.llm),
    }
    scores = _read(SCORE) if is_scored(bridge) else {}
    header = {
        "license": _licence(entries),
        "library_name": "libretto",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": [
            "speech-recognition",
            "llm",
            "ctc" if entries["encoder"].source.kind == "ctc" else "speech-llm",
        ],
        "base_model": [
            source.repo for entry in entries.values() for source in _sources(entry) if source.repo
        ],
        "datasets": _datasets(params.corpus),
        "metrics": ["wer"],
        "model-index": _results(params, scores),
    }
    head = yaml.safe_dump(
        {key: value for key, value in header.items() if value},
        sort_keys=False,
        allow_unicode=True,
        width=1000,
    )
    parts = [
        _opening(params, shape),
        _install(),
        _use(),
        _bases(params, entries, taken),
        _data(params.corpus),
        _training(params),
        _scores(scores),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def is_scored(bridge: dict[str, str]) -> bool:
    """Whether ``metrics/score.json`` is of the bridge with these files, by the records of the
    stages between.
    """
    if not all((folder / RECORD).is_file() for folder in (DECODED, SCORED)):
        return False
    return read_record(DECODED)["inputs"]["model"]["bridge"] == bridge and read_record(SCORED)[
        "inputs"
    ]["decode"] == recorded_digests(DECODED)


def check_secrets(text: str) -> None:
    """Raises InputError where a text holds the value of a variable of the environment that is named
    like a secret.
    """
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= 6 and value in text:
            raise InputError(
                f"The export would hold the value of {name}.",
                subject=name,
                hint="It stands in params.yaml, the catalogue or metrics: take it out of there.",
            )


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else {}


def _sources(entry: Any) -> list[Any]:
    return [entry.source, *getattr(entry.source, "parts", {}).values()]


def _licence(entries: dict[str, Any]) -> str:
    """The one licence of bridge and bases, as hubs spell it; ``other`` where there are several, or
    one that is no standard.
    """
    found = {
        OURS,
        *(
            str(entry.card.get("licence", OURS if is_trained_here(entry.source) else "unknown"))
            for entry in entries.values()
        ),
    }
    return LICENCES.get(found.pop(), "other") if len(found) == 1 else "other"


def _datasets(corpus: str) -> list[str]:
    sources = catalogue.corpus(corpus).sources["train"]
    return sorted({SPOKEN[each["kind"]] for each in sources.values() if each["kind"] in SPOKEN})


def _results(params: Params, scores: dict[str, Any]) -> list[dict[str, Any]]:
    """Word error rates in the form of a model index, in percent."""
    results = [
        {
            "task": {"type": "automatic-speech-recognition"},
            "dataset": {"name": name, "type": name},
            "metrics": [
                {"type": "wer", "name": f"WER, {system}", "value": round(100 * figures["wer"], 2)}
            ],
        }
        for name, systems in scores.items()
        for system, figures in systems.items()
        if "wer" in figures
    ]
    return [{"name": _name(params), "results": results}] if results else []


def _name(params: Params) -> str:
    return f"{params.encoder} + {params.projector} + {params.llm}"


def _opening(params: Params, shape: dict[str, Any]) -> str:
    tuned = " Parts of the encoder were tuned too." if shape.get("hearing") else ""
    return (
        f"# {_name(params)}\n\nSpeech recognition by a large language model: the speech encoder `{params.encoder}`, a bridge "
        f"(`{params.projector}`) and the LLM `{params.llm}`, trained with Libretto on the corpus `{params.corpus}`.{tuned} "
        f"This folder holds what was trained; weights are safetensors, and loading it runs no code of it."
    )


def _install() -> str:
    """How to install the package that wrote the export, at its commit where one is known."""
    commit, _, changes = source_commit().partition("+")
    lines = [f"git checkout {commit}"] if commit else []
    where = f", commit `{commit}`" if commit else ""
    note = " Its files had changes that are not in this commit." if changes else ""
    return (
        f"## Install\n\nLibretto {package_version()}{where}, on Python 3.11 or 3.12.{note} "
        "In a clone of its repository:\n\n```\n"
        + "\n".join([*lines, "python -m pip install ."])
        + "\n```"
    )


def _use() -> str:
    return (
        '## Use\n\n```python\nfrom libretto import load\n\ntranscriber = load("DIR")\n'
        'transcriber("file.flac").text\n```\n\n'
        "```\nlibretto transcribe file.flac --model DIR --format srt\n```\n\n"
        "`DIR` is this folder."
    )


def _bases(params: Params, entries: dict[str, Any], taken: Sequence[str]) -> str:
    lines = [
        "## Base models",
        "",
        "| part | name | source | licence | in this folder |",
        "| --- | --- | --- | --- | --- |",
    ]
    for stage, entry in entries.items():
        held = "yes" if stage in taken else "no"
        for source in _sources(entry):
            if source.kind == "joined":
                continue
            where = (
                f"{source.repo} at `{source.revision}`"
                if source.repo
                else "a local folder"
                if source.kind == "folder"
                else "trained here"
            )
            lines.append(
                f"| {stage} | {getattr(params, stage)} | {where} | "
                f"{entry.card.get('licence', 'not stated')} | {held} |"
            )
    return "\n".join(
        [
            *lines,
            "",
            f"The bridge is under {OURS}. What is adapted to a base is of use with that base "
            "alone, whose licence holds.",
        ]
    )


def _data(corpus: str) -> str:
    entry = catalogue.corpus(corpus)
    lines = ["## Data", "", "| role | source | kind |", "| --- | --- | --- |"]
    lines += [
        f"| {role} | {name} | {settings['kind']} |"
        for role, sources in entry.sources.items()
        for name, settings in sources.items()
    ]
    return "\n".join(lines)


def _training(params: Params) -> str:
    """What was tuned, in which stages, and how it went."""
    lines = ["## Training", ""]
    for stage in params.train.curriculum:
        lines.append(
            f"- {stage.name}: {', '.join(stage.tune)}, {stage.steps} steps, learning rate "
            f"{stage.learning_rate:g}"
        )
    for modules in [stage["modules"] for stage in _read(TABLE) or ()][-1:]:
        trained, total = (sum(each[key] for each in modules) for key in ("trained", "parameters"))
        lines.append(
            f"- parameters: {total:,}, of which {trained:,} were trained in the last stage"
        )
    for name, best in (_read(TRAIN).get("best") or {}).items():
        if isinstance(best, dict) and "dev_wer" in best:
            lines.append(
                f"- {name}: best at step {best['step']}, {100 * best['dev_wer']:.2f} % word "
                "error rate on a part of dev"
            )
    return "\n".join(lines)


def _scores(scores: dict[str, Any]) -> str:
    if not scores:
        return "## Results\n\nThis model was not scored where it was exported."
    speech = [
        (name, system, figures)
        for name, systems in scores.items()
        for system, figures in systems.items()
        if "wer" in figures
    ]
    other = [
        (name, system, figures)
        for name, systems in scores.items()
        for system, figures in systems.items()
        if "text_rate" in figures
    ]
    lines = []
    if speech:
        lines += [
            "## Results",
            "",
            "| set | system | WER % | 95 % interval | words |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, system, figures in speech:
            low, high = figures.get("wer_low"), figures.get("wer_high")
            span = (
                f"{100 * low:.2f} to {100 * high:.2f}"
                if low is not None and high is not None
                else ""
            )
            lines.append(
                f"| {name} | {system} | {100 * figures['wer']:.2f} | {span} | {figures['words']} |"
            )
    if other:
        lines += [
            "",
            "| non-speech | system | clips with text % | clips |",
            "| --- | --- | --- | --- |",
        ]
        lines += [
            f"| {name} | {system} | {100 * each['text_rate']:.2f} | {each['clips']} |"
            for name, system, each in other
        ]
    return "\n".join(lines)
