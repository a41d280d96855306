"""The LLM: a folder in HF form → model and tokenizer, and the loss on target tokens only.

Every family takes the same path: the Auto classes read architecture, attention and special tokens
from the folder; only safetensors are read and no code of a checkpoint is run. Loading costs reading
the weights once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from components.config.errors import InputError
from components.config.network_sizes import check_network_sizes
from components.model.folders.pretrained import DTYPES
from components.model.llms.batch import LlmInputs, SpeechOutput
from components.model.llms.sentencepiece import tokenizer_folder

# Settings by which some families (Gemma, Cohere, Granite, Falcon-H1) change the logits after the
# output matrix. The loss takes the matrix alone, so their training would follow another model than
# their search.
HEAD_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")

# Relative; about ten roundings of the dtype. Sequences that see each other are off by 0.1 and more.
PACKING_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of an LLM's folder; raises InputError where it does not load."""
    try:
        with tokenizer_folder(folder) as readable_folder:
            tokenizer = AutoTokenizer.from_pretrained(
                readable_folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # tokenizers raises Exception itself for a damaged file
        raise _unfit(folder, error) from None
    tokenizer.name_or_path = str(folder)
    return tokenizer


def load_llm(folder: Path, dtype: str, device: str) -> tuple[Any, Any]:
    """(model, tokenizer), frozen; raises InputError where the folder does not load."""
    tokenizer = load_tokenizer(folder)
    try:
        config = folder / "config.json"
        check_network_sizes(json.loads(config.read_text()), str(config))
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=DTYPES[dtype],
        )
    except InputError:
        raise
    except Exception as error:  # of any type: shapes, safetensors, settings
        raise _unfit(folder, error) from None
    for setting in HEAD_SETTINGS:
        if getattr(model.config, setting, None) not in (None, 1):
            raise InputError(
                f"{folder}: '{setting}' of {type(model).__name__} changes the logits, which "
                "the loss does not follow.",
                subject=str(folder),
                hint="Choose an LLM of another family.",
            )
    # What a checkpoint says of sampling and repetition (Qwen2.5: repetition_penalty 1.1) would fill
    # what a search leaves open.
    model.generation_config = GenerationConfig()
    return model.eval().requires_grad_(False).to(device), tokenizer


def _unfit(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"{folder} does not load as an LLM: {error}",
        subject=str(folder),
        hint="A folder in HF form with safetensors and a tokenizer is needed.",
    )


def predict_targets(llm: Any, inputs: LlmInputs) -> SpeechOutput:
    """Hidden states → logits at the target positions alone → cross-entropy; no matching loss."""
    hidden = compute_hidden_states(
        llm, inputs.embeddings, inputs.attention_mask, inputs.position_ids
    )
    targets = inputs.targets
    selected = hidden[targets.rows, targets.columns]  # (N, H)
    logits = llm.get_output_embeddings()(selected).float()  # (N, vocabulary)
    log_probs = logits.log_softmax(-1)  # (N, vocabulary)
    return SpeechOutput(
        loss=functional.nll_loss(log_probs, targets.ids, reduction="sum"),
        matching_loss=logits.new_zeros(()),
        token_log_probs=log_probs.detach().gather(1, targets.ids[:, None])[:, 0],  # (N,)
        row_index=targets.rows,
        is_correct=logits.argmax(-1) == targets.ids,  # (N,)
        num_tokens=inputs.num_tokens,
        num_padding=inputs.num_padding,
    )


@torch.no_grad()
def score_text(llm: Any, bos: int | None, ids: Sequence[int]) -> float:
    """Sum of the natural log-probabilities of ``ids`` behind the BOS; the end of sequence is not
    counted.

    Raises InputError for an LLM without a BOS, which says nothing of a text's first token.
    """
    if bos is None:
        raise InputError(
            "The LLM has no BOS, behind which a text by itself would stand.",
            subject="decode.perplexity",
            hint="Set decode.perplexity to false, or take another LLM.",
        )
    return score_texts(llm, [bos], [ids])[0]


def score_texts(llm: Any, before: Sequence[int], texts: Sequence[Sequence[int]]) -> list[float]:
    """Sums of the natural log-probabilities of the ids of each text behind those of ``before``, of
    which there is one at least, in one batch; the end of sequence is not counted. What all texts
    begin with is computed once.
    """
    rows = [[*before, *ids] for ids in texts]
    shared = _shared_prefix(rows)
    prefix = torch.tensor([shared], device=llm.device)  # (1, P)
    output = llm(input_ids=prefix, use_cache=True)
    logits = output.logits.float()  # (1, P, vocabulary)
    first = len(before)  # position of the first token that counts
    score = -float(
        functional.cross_entropy(logits[0, first - 1 : -1], prefix[0, first:], reduction="sum")
    )
    endings = [torch.tensor(row[len(shared) :], dtype=torch.long) for row in rows]
    lengths = torch.tensor([len(ending) for ending in endings], device=llm.device)
    tokens = torch.nn.utils.rnn.pad_sequence(endings, batch_first=True).to(llm.device)  # (B, T)
    if not tokens.shape[1]:
        return [score] * len(rows)
    is_token = torch.arange(tokens.shape[1], device=llm.device)[None] < lengths[:, None]
    mask = torch.cat([torch.ones_like(prefix).expand(len(rows), -1), is_token.long()], 1)
    cache = output.past_key_values
    cache.batch_repeat_interleave(len(rows))
    after = llm(input_ids=tokens, attention_mask=mask, past_key_values=cache).logits[:, :-1]
    at_end = logits[:, -1:].expand(len(rows), -1, -1)
    losses = functional.cross_entropy(
        torch.cat([at_end, after.float()], 1).mT, tokens, reduction="none"
    )  # (B, T)
    scores: list[float] = (score - (losses * is_token).sum(1)).tolist()
    return scores


def _shared_prefix(rows: Sequence[list[int]]) -> list[int]:
    """The ids that all rows begin with."""
    first, last = min(rows), max(rows)
    count = next(
        (index for index, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]),
        min(len(first), len(last)),
    )
    return first[:count]


def compute_hidden_states(
    llm: Any, embeddings: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor | None
) -> torch.Tensor:
    """The last layer's hidden states, (B, T, H), of embeddings (B, T, H).

    Where ``positions`` (B, T) restart and neither a mask nor a cache is given, attention stays
    within each run of positions.
    """
    options = {} if positions is None else {"position_ids": positions}
    output = llm.base_model(
        inputs_embeds=embeddings, attention_mask=mask, use_cache=False, **options
    )
    hidden: torch.Tensor = output.last_hidden_state
    return hidden


@torch.no_grad()
def check_packing(llm: Any) -> None:
    """Raises InputError where two sequences in one row do not come out as they do alone.

    Found out by running the network: a family that takes no positions, or does not restart with
    them, would be trained on utterances that see each other, and nothing would say so. Cost: three
    forward passes of a few tokens.
    """
    embed = llm.get_input_embeddings()
    first, second = (
        embed(
            torch.arange(start, start + length, device=embed.weight.device) % embed.num_embeddings
        )
        for start, length in ((5, 6), (40, 9))
    )
    positions = torch.cat(
        [torch.arange(len(vectors), device=first.device) for vectors in (first, second)]
    )[None]
    separate = torch.cat(
        [compute_hidden_states(llm, vectors[None], None, None)[0] for vectors in (first, second)]
    ).float()
    try:
        together = compute_hidden_states(llm, torch.cat([first, second])[None], None, positions)[
            0
        ].float()
        deviation = float((together - separate).norm() / separate.norm())
    except TypeError:  # it takes no positions
        deviation = float("inf")
    if not deviation <= PACKING_TOLERANCE[embed.weight.dtype]:
        raise InputError(
            f"{type(llm).__name__} does not keep sequences apart that are packed into one row "
            f"(off by {deviation:.2g}).",
            subject="train.packing",
            hint="Set train.packing to false.",
        )
