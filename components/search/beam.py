"""Beam search under constraints that act per utterance.

In: frames of a batch, seconds of audio, a constraint set, and, if the set needs it, acoustic
evidence. Out: the n-best list of each utterance. A score is the sum of the log-probabilities of the
tokens, end of sequence included, under the model without constraints. The text of an utterance does
not depend on the rest of its batch. Cost: that of the LLM, one pass a token for all beams, and one
pass for each rank of the n-best lists.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import GenerationConfig

from components.config.decoding import ConstraintSet
from components.model.llms.batch import LlmInputs, SpeechBatch, collate
from components.model.llms.prompt import PromptBuilder
from components.model.speech_llm import SpeechLLM
from components.search.acoustic_evidence import CtcEvidence, Evidence, MatchedEvidence
from components.search.constraints import logits_processors, token_limits
from components.search.rescoring import choose_texts
from components.text.hypothesis import Hypothesis, drop_cut_letter

MIN_SCORE = -1e8  # transformers gives a beam that was never reached -1e9


@torch.inference_mode()
def search(
    model: SpeechLLM,
    frames: Sequence[torch.Tensor],
    durations_s: Sequence[float],
    constraints: ConstraintSet,
    evidence: Sequence[Evidence] | None = None,
    *,
    utterance_ids: Sequence[str] = (),
    is_synchronous: bool = False,
) -> list[Hypothesis]:
    """The best hypothesis of each utterance, with the other beams as its alternatives; ``frames``
    are (frames, encoder width) each.

    ``evidence`` is that of each utterance; a set that needs it and is given none uses the matching
    head of the bridge. ``utterance_ids`` are for prompts that are drawn by them; without them each
    utterance has the first one. ``is_synchronous``: ranks that share the weights of the LLM search
    at the same time, each its own batch, and none stops before all are done.

    Raises ValueError if a set needs evidence, none is given and the matching head was not trained.
    """
    if constraints.ctc_texts and evidence is not None:
        of_ctc = [own for own in evidence if isinstance(own, CtcEvidence)]
        uses_adapter = model.config.has_text_adapter
        return choose_texts(model, of_ctc, constraints, uses_adapter=uses_adapter)
    builder = model.builder.with_context(constraints.context)
    templates = builder.choose_templates(utterance_ids) or [0] * len(frames)
    batch = collate(builder, None, frames, template_index=templates)
    speech = model.project(batch)  # B of (speech tokens, H)
    inputs = model.embed(batch, speech)  # (B, T, H)
    if evidence is None and constraints.needs_acoustic_evidence:
        evidence = _matched_evidence(model, speech)
        constraints = constraints.without_ctc()  # the matching head has no CTC paths
    output = _generate(
        model, speech, inputs, durations_s, constraints, evidence or (), is_synchronous
    )
    texts = _distinct_texts(output, model.builder.eos, constraints)
    gate = float(constraints.silence_gate)
    if not (gate and evidence is not None):
        scored = _score_texts(model, builder, speech, texts, templates)
    else:
        texts = [
            _add_empty_text(beams, own.speech_probability(beams[0]) < gate)
            for beams, own in zip(texts, evidence, strict=True)
        ]
        scored = [
            _rank_by_agreement(hypotheses, own, gate)
            for hypotheses, own in zip(
                _score_texts(model, builder, speech, texts, templates), evidence, strict=True
            )
        ]
    limits = token_limits(constraints, durations_s)[1]
    return [_best(hypotheses, limit) for hypotheses, limit in zip(scored, limits, strict=True)]


def _matched_evidence(model: SpeechLLM, speech: Sequence[torch.Tensor]) -> list[Evidence]:
    """Evidence from the matching head, for ``speech`` of (speech tokens, H) each."""
    if not model.has_matching_head:
        raise ValueError(
            "No acoustic evidence is given and the matching head was not trained. Use the "
            "constraint set's without_acoustic_limits()."
        )
    embedding = model.llm.get_input_embeddings()
    return [MatchedEvidence(model.matching, vectors, embedding) for vectors in speech]


def _generate(
    model: SpeechLLM,
    speech: Sequence[torch.Tensor],
    inputs: LlmInputs,
    durations_s: Sequence[float],
    constraints: ConstraintSet,
    evidence: Sequence[Evidence],
    is_synchronous: bool,
) -> Any:
    """The output of transformers' ``generate``: beams of one utterance are adjacent rows."""
    eos, pad, beams = model.builder.eos, model.tokenizer.pad_token_id, constraints.beams
    config = GenerationConfig(
        do_sample=False,
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=max(token_limits(constraints, durations_s)[1]) + 1,
        length_penalty=constraints.length_penalty if beams > 1 else None,  # greedy search has none
        no_repeat_ngram_size=constraints.no_repeat_ngram or None,
        eos_token_id=eos,
        pad_token_id=eos if pad is None else pad,
        bos_token_id=model.tokenizer.bos_token_id,
        use_cache=True,
        return_dict_in_generate=True,
        output_scores=beams > 1,
    )
    device = inputs.embeddings.device
    processors = logits_processors(
        constraints, durations_s, evidence, eos, model.builder.special_ids, device
    )
    with warnings.catch_warnings():
        # The warning says that no-repeat counts new tokens only, which is intended.
        warnings.filterwarnings("ignore", message=".*no_repeat_ngram_size.*")
        with model.projector.attend(speech):
            return model.llm.generate(
                inputs_embeds=inputs.embeddings,
                attention_mask=inputs.attention_mask,
                generation_config=config,
                logits_processor=processors,
                synced_gpus=is_synchronous,
            )


def _distinct_texts(output: Any, eos: int, constraints: ConstraintSet) -> list[list[list[int]]]:
    """The token ids of each utterance's distinct texts, best first, without the end of sequence.

    A beam that the constraints left no way to is used only if there is no other.
    """
    beams = constraints.beams
    rows = [_before_end(row, eos) for row in output.sequences.tolist()]
    scores = output.sequences_scores.tolist() if beams > 1 else [0.0] * len(rows)
    # transformers divides a score by the length, end included, to the power of the penalty.
    is_reached = [
        score * (len(row) + 1) ** constraints.length_penalty > MIN_SCORE
        for score, row in zip(scores, rows, strict=True)
    ]
    texts = []
    for start in range(0, len(rows), beams):
        stop = start + beams
        candidates = zip(rows[start:stop], is_reached[start:stop], strict=True)
        reached = dict.fromkeys(tuple(row) for row, is_valid in candidates if is_valid)
        texts.append([list(row) for row in reached] or [rows[start]])
    return texts


def _before_end(tokens: list[int], eos: int) -> list[int]:
    return tokens[: tokens.index(eos)] if eos in tokens else tokens


def _add_empty_text(texts: list[list[int]], is_silent: bool) -> list[list[int]]:
    """The texts, and the empty one if the probability of speech is low."""
    return [*texts, []] if is_silent and [] not in texts else texts


def _rank_by_agreement(
    hypotheses: list[Hypothesis], evidence: Evidence, gate: float
) -> list[Hypothesis]:
    """If the probability of speech is below ``gate``, the hypotheses by the product of the LLM's
    probability and that of the evidence; else as the search ranked them.
    """
    if evidence.speech_probability(hypotheses[0].tokens) >= gate:
        return hypotheses
    return sorted(
        hypotheses,
        key=lambda hypothesis: (
            hypothesis.score + evidence.log_agreement(hypothesis.tokens, hypothesis.text)
        ),
        reverse=True,
    )


def _best(hypotheses: list[Hypothesis], limit: int) -> Hypothesis:
    """The first of an n-best list, with the rest as its alternatives; ``limit`` is the most tokens
    that it may have. The limit may cut a letter: its bytes are tokens in many vocabularies.
    """
    hypotheses = [
        replace(hypothesis, text=drop_cut_letter(hypothesis.text))
        if len(hypothesis.tokens) >= limit
        else hypothesis
        for hypothesis in hypotheses
    ]
    best = hypotheses[0]
    return replace(best, alternatives=hypotheses[1:], at_limit=len(best.tokens) >= limit)


def _score_texts(
    model: SpeechLLM,
    builder: PromptBuilder,
    speech: Sequence[torch.Tensor],
    texts: Sequence[Sequence[list[int]]],
    templates: Sequence[int],
) -> list[list[Hypothesis]]:
    """The texts of each utterance with their log-probabilities after its prompt; a batch has at
    most one text of each utterance.
    """
    scored: list[list[Hypothesis]] = [[] for _ in texts]
    for rank in range(max(map(len, texts))):
        utterances = [index for index, beams in enumerate(texts) if len(beams) > rank]
        tokens = [texts[index][rank] for index in utterances]
        batch = collate(
            builder,
            tokens,
            speech=[speech[index] for index in utterances],
            template_index=[templates[index] for index in utterances],
        )
        scores = _log_probabilities(model, batch)
        for index, ids, score in zip(utterances, tokens, scores, strict=True):
            scored[index].append(Hypothesis(model.builder.decode(ids), ids, score))
    return scored


def _log_probabilities(model: SpeechLLM, batch: SpeechBatch) -> list[float]:
    """The log-probability of the text of each utterance, end of sequence included."""
    output = model(batch)
    num_utterances = len(batch.input_ids)
    scores = torch.zeros(num_utterances, device=output.token_log_probs.device)  # (B,)
    return scores.index_add_(0, output.row_index, output.token_log_probs).tolist()
