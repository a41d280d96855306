"""The stage: the LLM that ``params.yaml`` names → ``models/llm``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from components.config import catalogue
from components.config.entries import Prompt
from components.config.errors import InputError
from components.config.model_sources import TrainedLlmSource
from components.config.schema import non_default_fields
from components.llm import RESULT_VERSION
from components.llm.task import LlmTask
from components.model.folders.folder import cache_checkpoint
from components.model.folders.linked_checkpoint import link_checkpoint
from components.optim.engine import run_ranks
from components.runtime.artifact import empty_folder, write_record
from components.runtime.hashing import data_digest
from components.runtime.stage import Stage
from components.runtime.unit_cache import cached_unit, link_files, unit_digests, unit_libraries
from components.shards.reader import list_utterances

OUT = Path("models/llm")
SHARDS = Path("data/shards/train")

LIBRARIES = {"torch", "transformers", "tokenizers"}  # of the record, where they made the LLM
logger = logging.getLogger(__name__)


def work(stage: Stage) -> None:
    """Runs the stage; raises InputError where the entry, its checkpoint or its prompt can't be
    used.
    """
    name = stage.params.llm
    entry = catalogue.llm(name)
    is_trained_here = isinstance(entry.source, TrainedLlmSource)
    if isinstance(entry.source, TrainedLlmSource):
        unit, inputs = _trained_llm(name, entry.source, entry.prompt)
    else:
        unit, inputs = cache_checkpoint("llm", name, entry.source), {}
    empty_folder(OUT)
    if is_trained_here:
        link_files(unit, OUT)
    write_record(
        OUT,
        "llm",
        parameters=non_default_fields(entry.source),
        inputs=inputs,
        outputs=unit_digests(unit),
        libraries=tuple(sorted(unit_libraries(unit) & LIBRARIES)),
    )
    checkpoint = link_checkpoint(OUT)  # links what came from elsewhere
    if not is_trained_here:
        _check_prompt(name, entry.prompt, checkpoint)
    logger.info("llm: '%s' in %s", name, OUT)


def _check_prompt(name: str, prompt: Prompt, checkpoint: Path) -> None:
    """Raises InputError, before hours of features, where prompt and tokenizer do not fit."""
    from components.model.llms.causal import load_tokenizer
    from components.model.llms.prompt import PromptBuilder

    try:
        PromptBuilder(load_tokenizer(checkpoint), prompt)
    except InputError as error:
        raise InputError(f"llm '{name}': {error.args[0]}", subject=name, hint=error.hint) from None


def _trained_llm(
    name: str, source: TrainedLlmSource, prompt: Prompt
) -> tuple[Path, dict[str, Any]]:
    """The unit of an LLM that is trained here on the texts of the train role, and the inputs that
    it was computed from.
    """
    texts = [utterance.text for utterance in list_utterances(SHARDS)]
    inputs = {"texts": data_digest(texts), "prompt": non_default_fields(prompt)}

    def train(folder: Path) -> None:
        if not texts:
            raise InputError(
                f"llm '{name}': the corpus has no utterance in its role train to train it on.",
                subject=name,
                hint="Give the role a source, or name an LLM that is trained already.",
            )
        run_ranks(LlmTask(name, folder, texts, source, prompt))

    key = {"version": RESULT_VERSION, "source": non_default_fields(source), "inputs": inputs}
    return cached_unit("llm", key, train, code="components.llm.copying"), inputs
