"""The workspace's model → a folder that loads elsewhere, with nothing but this package and the base
checkpoints.

In: ``models/`` and what ``params.yaml``, the catalogue and ``metrics/`` say of it. Out: ``bridge/``
(what was trained), ``libretto.json`` (pins of encoder and LLM, how the encoder is heard, the
search, a digest of each file), ``README.md`` (the card), and ``encoder/`` and ``llm/`` where they
were trained here or are asked for. Written beside its place and renamed. Cost: reading all files
for their digests; weights of bases are linked where the file system allows.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.errors import InputError
from components.config.params import Params, read_params
from components.config.schema import non_default_fields
from components.model.folders.description import MATCHING
from components.runtime.artifact import RECORD, read_record, recorded_digests, write_record
from components.runtime.hashing import data_digest, file_digest
from components.runtime.unit_cache import check_disk_space, link_file
from components.transcribe import card
from components.transcribe.bases import is_trained_here
from components.transcribe.setup import (
    BRIDGE,
    DESCRIPTION,
    ENCODER,
    FOLDERS,
    FORMAT,
    LLM,
    Setup,
    of_workspace,
)

ADAPTERS = ("lora", "encoder-lora")


def export(folder: Path, with_bases: bool = False) -> list[str]:
    """Writes the model of the workspace to ``folder`` and returns what is to be said of it, a line
    each.

    Raises InputError for a model that is not whole, a folder that holds something else, and a base
    that may not be passed on.
    """
    if (
        folder.exists()
        and not (folder / DESCRIPTION).is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise InputError(
            f"{folder} is not empty, and no export of before.",
            subject=str(folder),
            hint="Name another folder.",
        )
    params, setup = read_params(), of_workspace()
    shape = json.loads((BRIDGE / "config.json").read_text())
    entries: dict[str, Any] = {
        "encoder": catalogue.encoder(params.encoder),
        "llm": catalogue.llm(params.llm),
    }
    bases = {}
    for stage, place in (("encoder", ENCODER), ("llm", LLM)):
        name, digest = getattr(params, stage), data_digest(recorded_digests(place))
        if shape[stage] != digest:
            raise InputError(
                f"{BRIDGE} was trained on another {stage} than {place} holds.",
                subject=stage,
                hint="Run 'dvc repro'.",
            )
        bases[stage] = {
            "name": name,
            "source": non_default_fields(entries[stage].source),
            "digest": digest,
        }
    taken = [stage for stage in bases if with_bases or is_trained_here(entries[stage].source)]
    for stage in taken:
        _check_licence(stage, bases[stage]["name"], entries[stage])
    _check_training(params)
    text = card.card_of(params, shape, taken, recorded_digests(BRIDGE))
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with check_disk_space(0, partial, str(folder)):
        files = _bridge(partial, _title(bases["llm"]), setup)
        for stage, place in (("encoder", ENCODER), ("llm", LLM)):
            files |= _base(stage, place, partial / stage) if stage in taken else {}
        description = {
            "format": FORMAT,
            **bases,
            "hearing": asdict(setup.hearing),
            "decode": asdict(setup.decode),
            "files": files,
        }
        (partial / "README.md").write_text(text, encoding="utf-8")
        (partial / DESCRIPTION).write_text(
            json.dumps(description, indent=1, sort_keys=True, ensure_ascii=False) + "\n",
            encoding="utf-8",
        )
        _check_secrets(partial)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    return [
        f"{folder}: {len(files)} files",
        *(_said(stage, bases[stage], stage in taken) for stage in bases),
    ]


def _check_training(params: Params) -> None:
    """Raises InputError where the bridge was trained otherwise than ``params.yaml`` and the
    catalogue say now: the card names both.
    """
    made = read_record(BRIDGE)["parameters"] or {}
    for name, now in {
        "train": asdict(params.train),
        "projector": non_default_fields(catalogue.projector(params.projector)),
    }.items():
        if name in made and made[name] != json.loads(json.dumps(now)):
            raise InputError(
                f"{BRIDGE} was trained with other parameters ({name}) than params.yaml and the "
                "catalogue name.",
                subject=name,
                hint="Run 'dvc repro', or set them back.",
            )


def _check_secrets(folder: Path) -> None:
    """As ``card.check_secrets`` for every text of an export but those of its bases; takes the
    folder away before it raises.
    """
    texts = [
        path
        for path in folder.rglob("*")
        if path.suffix in (".json", ".md") and path.relative_to(folder).parts[0] not in FOLDERS[1:]
    ]
    try:
        for path in texts:
            card.check_secrets(path.read_text(encoding="utf-8"))
    except InputError:
        shutil.rmtree(folder)
        raise


def _check_licence(stage: str, name: str, entry: Any) -> None:
    """Raises InputError where the catalogue says that a base may not be passed on."""
    if str(entry.card.get("copies", "")).startswith("forbidden"):
        raise InputError(
            f"{stage} '{name}': its licence ({entry.card.get('licence', 'unknown')}) forbids "
            "copies.",
            subject=name,
            hint="Export without --with-bases: whoever loads the model fetches it.",
        )


def _title(base: dict[str, Any]) -> str:
    """The repository of a base that comes from a hub, else its name."""
    return str(base["source"].get("repo") or base["name"])


def _bridge(folder: Path, llm: str, setup: Setup) -> dict[str, str]:
    """Copies what was trained; the digest of each file. The matching head goes along where the
    search asks it, in place of CTC.
    """
    asks = (
        any(each.needs_acoustic_evidence for each in setup.decode.sets.values()) and not setup.ctc
    )
    found = {}
    for name, digest in sorted(recorded_digests(BRIDGE).items()):
        if name == RECORD or (name == MATCHING and not asks):
            continue
        target = folder / "bridge" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(BRIDGE / name, target)
        if file_digest(target) != digest:
            raise InputError(
                f"{BRIDGE / name} is not what the stage train wrote.",
                subject=name,
                hint="Run 'dvc repro'.",
            )
        if (
            target.name == "adapter_config.json" and target.parent.name in ADAPTERS
        ):  # PEFT notes there where the LLM lay
            config = json.loads(target.read_text()) | {
                "base_model_name_or_path": llm if target.parent.name == "lora" else None
            }
            target.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        found[f"bridge/{name}"] = file_digest(target)
    return found


def _base(stage: str, place: Path, folder: Path) -> dict[str, str]:
    """Links the files of a base; the digest of each, by its path in the export."""
    outputs = recorded_digests(place)
    for name in outputs:
        link_file((place / name).resolve(), folder / name)
    write_record(folder, stage, parameters=None, inputs={}, outputs=outputs)
    return {f"{stage}/{name}": digest for name, digest in outputs.items()}


def _said(stage: str, base: dict[str, Any], taken: bool) -> str:
    source = base["source"]
    if taken:
        return (
            f"{stage} '{base['name']}': in the folder; whoever passes it on passes this "
            "checkpoint on, under its own licence"
        )
    where = (
        f"{source['repo']} at {source['revision']}"
        if source["kind"] == "hub"
        else f"LIBRETTO_MODELS/{source.get('folder', '')}"
    )
    return f"{stage} '{base['name']}': not in the folder; taken from {where} where it is loaded"
