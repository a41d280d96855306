"""Beam search under constraints that act per utterance.

In: frames of a batch, seconds of audio, a constraint set, and where it asks for it evidence of what
was heard. Out: the best text of each utterance, others beside it, and their scores: the sum of the
tokens' log-probabilities, end of sequence included, as the model gives them without constraints. An
utterance's text does not hang on its neighbours. Cost: the LLM's, one pass a token over beams, and
a pass over the found texts for their scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from components.config.params import ConstraintSet
from components.model.llms.batch import collate
from components.model.speech_llm import SpeechLLM
from components.search.acoustic_evidence import Evidence, MatchedEvidence
from components.search.constraints import limits, processors
from components.text.hypothesis import Hypothesis

REACHED = -1e8  # transformers marks a beam that never came about by -1e9


@torch.inference_mode()
def search(
    model: SpeechLLM,
    frames: Sequence[torch.Tensor],
    seconds: Sequence[float],
    constraints: ConstraintSet,
    evidence: Sequence[Evidence] | None = None,
    *,
    together: bool = False,
) -> list[Hypothesis]:
    """The best hypothesis of each utterance from its frames, each (frames, encoder width), with the
    other beams beside it.

    ``evidence`` is what was heard of each; where a set asks for it and none is given, the matching
    head of the bridge tells. Raises ValueError where that was not trained. ``together``: ranks that
    hold the LLM together search at the same time, each its own batch; none stops before all are
    done.
    """
    batch = collate(model.builder, None, frames)
    speech = model.project(batch)  # B of (speech tokens, H)
    inputs = model.embed(batch, speech)  # (B, T, H)
    if evidence is None and constraints.needs_acoustic_evidence:
        if not model.has_matching_head:
            raise ValueError(
                "Neither evidence is given nor was the matching head trained; take the set's "
                "'unasked()'."
            )
        evidence = [
            MatchedEvidence(model.matching, each, model.llm.get_input_embeddings())
            for each in speech
        ]
    eos, pad, beams = model.builder.eos, model.tokenizer.pad_token_id, constraints.beams
    config = GenerationConfig(
        do_sample=False,
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=max(limits(constraints, seconds)[1]) + 1,
        length_penalty=constraints.length_penalty,
        no_repeat_ngram_size=constraints.no_repeat_ngram or None,
        eos_token_id=eos,
        pad_token_id=eos if pad is None else pad,
        bos_token_id=model.tokenizer.bos_token_id,
        use_cache=True,
        return_dict_in_generate=True,
        output_scores=beams > 1,
    )
    with warnings.catch_warnings():
        # It warns that no-repeat looks at new tokens only: that is what is wanted.
        warnings.filterwarnings("ignore", message=".*no_repeat_ngram_size.*")
        made = model.llm.generate(
            inputs_embeds=inputs.embeddings,
            attention_mask=inputs.attention_mask,
            generation_config=config,
            logits_processor=processors(
                constraints,
                seconds,
                evidence or (),
                eos,
                model.builder.special,
                inputs.embeddings.device,
            ),
            synced_gpus=together,
        )
    rows = [_until(row, eos) for row in made.sequences.tolist()]
    scores = made.sequences_scores.tolist() if beams > 1 else [0.0] * len(rows)
    # Undone: scores are divided by the length, end included, to the power of the penalty.
    reached = [
        score * (len(row) + 1) ** constraints.length_penalty > REACHED
        for score, row in zip(scores, rows, strict=True)
    ]
    found = [
        _distinct(rows[at : at + beams], reached[at : at + beams])
        for at in range(0, len(rows), beams)
    ]
    if constraints.silence_gate:
        assert evidence is not None  # made above where none was given
        found = [
            _gated(texts, each.speech(texts[0]) < constraints.silence_gate)
            for texts, each in zip(found, evidence, strict=True)
        ]
    scored = _scored(model, speech, found)
    if constraints.silence_gate and evidence is not None:
        scored = [
            _ranked(texts, each, constraints.silence_gate)
            for texts, each in zip(scored, evidence, strict=True)
        ]
    return [Hypothesis(best.text, best.tokens, best.score, others) for best, *others in scored]


def _until(tokens: list[int], eos: int) -> list[int]:
    return tokens[: tokens.index(eos)] if eos in tokens else tokens


def _distinct(texts: Sequence[list[int]], reached: Sequence[bool]) -> list[list[int]]:
    """The texts of an utterance's beams, each once; those that the constraints left no way to only
    where there is no other.
    """
    return [
        list(each)
        for each in dict.fromkeys(tuple(text) for text, there in zip(texts, reached) if there)
    ] or [texts[0]]


def _gated(texts: list[list[int]], low: bool) -> list[list[int]]:
    """The texts, and the empty one beside them where the evidence for speech is low."""
    return texts if not low or [] in texts else [*texts, []]


def _ranked(found: list[Hypothesis], evidence: Evidence, gate: float) -> list[Hypothesis]:
    """Where the evidence for speech is low, hypotheses by the product of both probabilities, the
    LLM's and that of what was heard: the empty transcript competes as one of them. Elsewhere as the
    search left them.
    """
    if evidence.speech(found[0].tokens) >= gate:
        return found
    return sorted(
        found,
        key=lambda each: each.score + evidence.agreement(each.tokens, each.text),
        reverse=True,
    )


def _scored(
    model: SpeechLLM, speech: Sequence[torch.Tensor], found: Sequence[Sequence[list[int]]]
) -> list[list[Hypothesis]]:
    """The texts of each utterance with their log-probabilities; batches are as large as that of the
    search.
    """
    scored: list[list[Hypothesis]] = [[] for _ in found]
    for place in range(max(map(len, found))):
        rows = [row for row, texts in enumerate(found) if len(texts) > place]
        texts = [found[row][place] for row in rows]
        for row, tokens, score in zip(
            rows,
            texts,
            _log_probabilities(model, [speech[row] for row in rows], texts),
            strict=True,
        ):
            scored[row].append(Hypothesis(model.builder.text(tokens), tokens, score))
    return scored


def _log_probabilities(
    model: SpeechLLM, speech: Sequence[torch.Tensor], tokens: Sequence[Sequence[int]]
) -> list[float]:
    """The log-probability of each text, end of sequence included, after its projected speech."""
    output = model(collate(model.builder, tokens, speech=speech))
    scores = torch.zeros(len(speech), device=output.token_log_probs.device)  # (B,)
    return scores.index_add_(0, output.row_index, output.token_log_probs).tolist()
