"""Readers of the catalogue: the entries that the names in ``params.yaml`` point to.

In: the kind and the name of an entry; the folder ``catalogue`` has one file for each kind. Out: the
entry as typed, checked data, or InputError. ``card`` (licence, notes) is for people: no stage
reads it. Cost: milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from components.config.entries import EncoderEntry, LlmEntry, LoraTargets
from components.config.errors import InputError, nearest
from components.config.model_sources import HubSource, parts_of
from components.config.projector import Projector, parse_projector
from components.config.schema import ENTRY_NAME, parse_as
from components.config.training import Train
from components.config.yaml_files import read_yaml

FOLDER = Path("catalogue")
ROLES = ("train", "dev", "test", "nonspeech-train", "nonspeech-test", "noise")
SPEECH_ROLES = ("train", "dev", "test")


@dataclass(frozen=True)
class Corpus:
    """Sources by role: ``{role: {source name: settings}}``; the settings are typed by the source's
    module.
    """

    sources: dict[str, dict[str, dict[str, Any]]]


def _load(kind: str) -> dict[str, Any]:
    path = FOLDER / f"{kind}.yaml"
    entries = read_yaml(path)
    for name in entries:  # it is a part of commands that DVC gives to a shell
        if not (isinstance(name, str) and re.fullmatch(ENTRY_NAME, name)):
            raise InputError(
                f"{path}: {name!r} is no name of an entry.",
                subject=str(name),
                hint="Rename it: letters, digits, hyphens and underscores.",
            )
    return entries


def names(kind: str) -> list[str]:
    """Names of all entries of one kind (``corpus``, ``encoder``, ``projector``, ``llm``)."""
    return sorted(map(str, _load(kind)))


def raw_entry(kind: str, name: str) -> dict[str, Any]:
    """One entry as plain data; raises InputError with the nearest name for an unknown one."""
    entries = _load(kind)
    if name not in entries:
        raise InputError(
            f"No {kind} is called '{name}'.", subject=kind, hint=nearest(name, entries)
        )
    if not isinstance(entries[name], dict):
        raise _no_mapping(f"catalogue/{kind}.yaml: {name}", name)
    return cast("dict[str, Any]", entries[name])


def _no_mapping(where: str, name: str) -> InputError:
    return InputError(
        f"{where}: keys with values are expected.",
        subject=name,
        hint="'git diff catalogue' shows what changed.",
    )


def corpus(name: str) -> Corpus:
    """The sources by role of a corpus; raises InputError for an unknown role, and for a source
    without a kind or whose name is none.
    """
    entry = {role: sources for role, sources in raw_entry("corpus", name).items() if role != "card"}
    for role, sources in entry.items():
        if role not in ROLES:
            raise InputError(
                f"corpus '{name}': unknown role '{role}'.",
                subject=str(role),
                hint=nearest(str(role), ROLES),
            )
        if sources is not None and not isinstance(sources, dict):
            raise _no_mapping(f"corpus '{name}', {role}", role)
        for source, settings in (sources or {}).items():
            if not re.fullmatch(r"\w[\w.-]*", str(source)):  # it is the name of a folder
                raise InputError(
                    f"corpus '{name}', {role}: {source!r} is no name of a source.",
                    subject=str(source),
                    hint="Rename it: letters, digits, hyphens, underscores and dots.",
                )
            if not isinstance(settings, dict) or "kind" not in settings:
                raise InputError(
                    f"corpus '{name}', {role}, source '{source}': 'kind' missing.",
                    subject=source,
                    hint="Add it: components/corpus/sources has a module for each kind.",
                )
    return Corpus({role: dict(entry.get(role) or {}) for role in ROLES})


def names_of_rooms(sources: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the sources of the role noise that are impulse responses of rooms; the others are
    added to speech.
    """
    return sorted(name for name, settings in sources.items() if settings.get("rooms"))


def encoder(name: str) -> EncoderEntry:
    """The typed entry of an encoder; raises InputError for an unknown name or a wrong entry."""
    return parse_as(EncoderEntry, raw_entry("encoder", name), f"catalogue/encoder.yaml: {name}")


def projector(name: str) -> Projector:
    """The typed entry of a projector, by its kind; without its card, which would become a part of
    the key of a training. Raises InputError for an unknown name or a wrong entry.
    """
    return replace(
        parse_projector(raw_entry("projector", name), f"catalogue/projector.yaml: {name}"), card={}
    )


def llm(name: str) -> LlmEntry:
    """The typed entry of an LLM; raises InputError for an unknown name or a wrong entry."""
    return parse_as(LlmEntry, raw_entry("llm", name), f"catalogue/llm.yaml: {name}")


def encoder_in_training(name: str, settings: Train) -> EncoderEntry:
    """The entry of an encoder with the LoRA targets that ``settings`` name in place of its own."""
    entry, targets = encoder(name), settings.encoder_lora.targets
    return entry if targets is None else replace(entry, lora=LoraTargets(targets))


def llm_in_training(name: str, settings: Train) -> LlmEntry:
    """The entry of an LLM with the prompt and the LoRA targets that ``settings`` name in place of
    its own.
    """
    entry, targets = llm(name), settings.lora.targets
    lora = entry.lora if targets is None else LoraTargets(targets)
    return replace(entry, prompt=settings.prompt or entry.prompt, lora=lora)


def check_pinned(kind: str, name: str) -> None:
    """Raises InputError where a source of a hub has no commit or no files: what is fetched could
    change.
    """
    for source in parts_of(READERS[kind](name).source):
        if not isinstance(source, HubSource):
            continue
        missing = [key for key in ("revision", "files") if not getattr(source, key)]
        if missing:
            raise InputError(
                f"{kind} '{name}': {source.repo} is not pinned: no {' and no '.join(missing)} in "
                f"catalogue/{kind}.yaml.",
                subject=name,
                hint=f"'python -m components.{kind} pin {name}' asks the hub and prints the lines "
                "to add.",
            )


READERS: dict[str, Callable[[str], Any]] = {
    "corpus": corpus,
    "encoder": encoder,
    "projector": projector,
    "llm": llm,
}
