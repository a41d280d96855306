"""Beam search with constraints that act per utterance.

Every limit is a logits processor with one value an utterance, never the batch's largest: an utterance's text does not
hang on its neighbours. The score of a hypothesis is the sum of its tokens' log-probabilities, end of sequence included,
as the model gives them without constraints.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from components.config.params import ConstraintSet
from components.model.joined import SpeechLLM
from components.model.llms.prompt import sequences


@dataclass(frozen=True)
class Hypothesis:
    """The best text of one utterance: token ids without the end of sequence, and its log-probability."""

    text: str
    tokens: list[int]
    score: float


class TokenLimits(LogitsProcessor):
    """Forbids the end of sequence before ``fewest`` new tokens and everything else after ``most``, for each utterance."""

    def __init__(self, fewest: Sequence[int], most: Sequence[int], eos: int, device: torch.device) -> None:
        self.fewest, self.most = (torch.tensor(values, device=device) for values in (fewest, most))
        self.eos = eos

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        beams = len(scores) // len(self.most)
        done = input_ids.shape[1]  # new tokens alone: generation starts from embeddings
        scores = scores.clone()
        early = (done < self.fewest).repeat_interleave(beams)
        scores[early, self.eos] = float("-inf")
        ended = scores[:, self.eos].clone()
        late = (done >= self.most).repeat_interleave(beams)
        scores[late] = float("-inf")
        scores[late, self.eos] = ended[late]
        return scores


def limits(constraints: ConstraintSet, seconds: Sequence[float]) -> tuple[list[int], list[int]]:
    """Fewest and most tokens of each utterance, from its seconds of audio."""
    rate, extra = constraints.max_tokens_per_second, constraints.extra_tokens
    most = [min(constraints.max_tokens, int(rate * each) + extra) if rate else constraints.max_tokens for each in seconds]
    fewest = [min(int(constraints.min_tokens_per_second * each), cap) for each, cap in zip(seconds, most, strict=True)]
    return fewest, most


@torch.inference_mode()
def search(model: SpeechLLM, frames: Sequence[torch.Tensor], seconds: Sequence[float], constraints: ConstraintSet, *,
           together: bool = False) -> list[Hypothesis]:  # fmt: skip
    """The best hypothesis of each utterance from its frames, each (frames, encoder width).

    ``together``: ranks that hold the LLM together search at the same time, each its own batch; none stops before all are done.
    """
    speech = model.projector(frames)
    batch = sequences(model.llm.get_input_embeddings(), model.builder, speech, None)
    fewest, most = limits(constraints, seconds)
    eos = model.builder.eos
    pad = model.tokenizer.pad_token_id
    config = GenerationConfig(
        do_sample=False, num_beams=constraints.beams, max_new_tokens=max(most) + 1, length_penalty=constraints.length_penalty,
        no_repeat_ngram_size=constraints.no_repeat_ngram or None, eos_token_id=eos, pad_token_id=eos if pad is None else pad,
        bos_token_id=model.tokenizer.bos_token_id, use_cache=True,
    )  # fmt: skip
    limited = LogitsProcessorList([TokenLimits(fewest, most, eos, batch.embeddings.device)])
    with warnings.catch_warnings():
        # It warns that no-repeat looks at new tokens only: that is what is wanted.
        warnings.filterwarnings("ignore", message=".*no_repeat_ngram_size.*")
        made = model.llm.generate(
            inputs_embeds=batch.embeddings,
            attention_mask=batch.mask,
            generation_config=config,
            logits_processor=limited,
            synced_gpus=together,
        )
    tokens = [_until(row, eos) for row in made.tolist()]
    scores = _log_probabilities(model, speech, tokens)
    return [Hypothesis(model.builder.text(row), row, score) for row, score in zip(tokens, scores, strict=True)]


def _until(tokens: list[int], eos: int) -> list[int]:
    return tokens[: tokens.index(eos)] if eos in tokens else tokens


def _log_probabilities(model: SpeechLLM, speech: Sequence[torch.Tensor], tokens: Sequence[Sequence[int]]) -> list[float]:
    batch = sequences(model.llm.get_input_embeddings(), model.builder, speech, tokens)
    hidden = model.llm.base_model(inputs_embeds=batch.embeddings, attention_mask=batch.mask, use_cache=False).last_hidden_state
    logits = model.llm.get_output_embeddings()(hidden[batch.rows, batch.columns]).float()
    found = logits.log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
    return torch.zeros(len(speech), device=found.device).index_add_(0, batch.rows, found).tolist()
