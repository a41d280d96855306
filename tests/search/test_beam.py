"""Beam search: each utterance for itself, whatever stands beside it in the batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.config.decoding import ConstraintSet
from components.config.entries import Prompt
from components.config.projector import Linear, Projector
from components.model.llms.prompt import PromptBuilder
from components.model.speech_llm import SpeechLLM
from components.search.beam import search, token_limits
from components.search.constraints import GREEDY
from components.text.hypothesis import Hypothesis
from tests.checkpoints import LLMS, frames_of, joined
from tests.model.test_gated_cross_attention import ENTRY as GATED

FREE = replace(GREEDY, beams=4, max_tokens=12)
SETS = {
    "free": FREE,
    "greedy": replace(FREE, beams=1),
    "long liked": replace(FREE, length_penalty=2.0),
    "constrained": replace(
        FREE, length_penalty=0.6, no_repeat_ngram=3, max_tokens_per_second=4, extra_tokens=2
    ),
    "at least": replace(FREE, min_tokens_per_second=2, max_tokens_per_second=6),
    "penalised": replace(
        FREE,
        repetition_penalty=3.0,
        eos_threshold=1.5,
        min_tokens_per_second=2,
        max_tokens_per_second=6,
    ),
    "greedy penalised": replace(GREEDY, max_tokens=12, repetition_penalty=3.0, eos_threshold=1.5),
}
LENGTHS = [3, 22, 9, 14, 1, 30]


def seconds_of(frames: list[torch.Tensor]) -> list[float]:
    return [len(each) / 10 for each in frames]


def ending(model: SpeechLLM, strength: float) -> SpeechLLM:
    """Makes the end of sequence likelier by ``strength`` (Phi's output layer has a bias)."""
    with torch.no_grad():
        model.llm.lm_head.bias[model.builder.eos] += strength
    return model


def reference(model: SpeechLLM, frames: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities after the prompt, the speech and ``tokens``, shape (len(tokens) + 1,
    vocabulary); no batch, no cache.
    """
    units, embed = model.tokenizer, model.llm.get_input_embeddings()
    before = [units.bos_token_id, *units("USER: ").input_ids]
    after = [*units(" Transcribe speech to text. ASSISTANT: ").input_ids, *tokens]
    with torch.no_grad():
        row = torch.cat(
            [embed(torch.tensor(before)), model.projector([frames])[0], embed(torch.tensor(after))]
        )
        return model.llm(inputs_embeds=row[None]).logits[0, -len(tokens) - 1 :].log_softmax(-1)


@pytest.mark.parametrize("family", LLMS)
@pytest.mark.parametrize("name", SETS)
def test_a_batch_gives_each_utterance_the_text_that_it_has_alone(
    family: str, name: str, tmp_path: Path
) -> None:
    assert len({tuple(found.tokens) for found in alike(joined(tmp_path, family), SETS[name])}) > 1


@pytest.mark.parametrize("name", ["free", "greedy", "constrained", "at least"])
def test_that_holds_where_texts_end_at_different_steps(name: str, tmp_path: Path) -> None:
    assert (
        len(
            {len(found.tokens) for found in alike(ending(joined(tmp_path, "phi"), 3.0), SETS[name])}
        )
        > 2
    )


def alike(model: SpeechLLM, constraints: ConstraintSet) -> list[Hypothesis]:
    """What a batch gives, once each of it is the same alone."""
    frames = frames_of(LENGTHS)
    seconds = seconds_of(frames)
    together = search(model, frames, seconds, constraints)
    for each, length, found in zip(frames, seconds, together, strict=True):
        alone = search(model, [each], [length], constraints)[0]
        assert (alone.tokens, alone.text) == (found.tokens, found.text)
        assert alone.score == pytest.approx(found.score, rel=1e-4)
    return together


@pytest.mark.parametrize("order", [[5, 4, 3, 2, 1, 0], [1, 0, 2, 3, 4, 5]])
def test_the_order_of_a_batch_changes_no_text(order: list[int], tmp_path: Path) -> None:
    model, frames = ending(joined(tmp_path, "phi"), 3.0), frames_of(LENGTHS)
    seconds = seconds_of(frames)
    one = search(model, frames, seconds, SETS["constrained"])
    other = search(
        model,
        [frames[place] for place in order],
        [seconds[place] for place in order],
        SETS["constrained"],
    )
    assert [found.tokens for found in other] == [one[place].tokens for place in order]
    assert len({len(found.tokens) for found in one}) > 2


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_one_beam_takes_the_likeliest_token_at_each_step(family: str, tmp_path: Path) -> None:
    model, frames = joined(tmp_path, family), frames_of([7, 12])
    for each, found in zip(frames, search(model, frames, [1.0, 1.0], SETS["greedy"]), strict=True):
        tokens: list[int] = []
        while (
            len(tokens) < FREE.max_tokens
            and (best := int(reference(model, each, tokens)[-1].argmax())) != model.builder.eos
        ):
            tokens.append(best)
        assert found.tokens == tokens


def test_beams_find_the_likeliest_of_all_texts_where_they_can_hold_them_all(tmp_path: Path) -> None:
    """Over two tokens at most, against every text of none, one or two tokens, whose score is not
    divided by its length.
    """
    model = ending(joined(tmp_path, "phi"), 6.0)
    each, eos = frames_of([8])[0], model.builder.eos
    vocabulary = model.llm.get_input_embeddings().num_embeddings
    found = search(
        model, [each], [1.0], replace(FREE, beams=vocabulary, max_tokens=2, length_penalty=0.0)
    )[0]
    first = reference(model, each, [])[0]
    scores = {(): float(first[eos])}
    for token in (token for token in range(vocabulary) if token != eos):
        second = reference(model, each, [token])[1]
        scores[(token,)] = float(first[token] + second[eos])
        for other in second.topk(3).indices.tolist():
            if other != eos:
                scores[(token, other)] = float(
                    first[token] + second[other] + reference(model, each, [token, other])[2][eos]
                )
    assert found.score == pytest.approx(max(scores.values()), rel=1e-4)
    assert tuple(found.tokens) == max(scores, key=scores.__getitem__)


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_the_score_is_the_sum_of_log_probabilities_with_the_end(
    family: str, tmp_path: Path
) -> None:
    model, frames = joined(tmp_path, family), frames_of([3, 11])
    for each, found in zip(
        frames, search(model, frames, [1.0, 1.0], SETS["constrained"]), strict=True
    ):
        steps = reference(model, each, found.tokens)
        wanted = sum(
            float(steps[place, token])
            for place, token in enumerate([*found.tokens, model.builder.eos])
        )
        assert found.score == pytest.approx(wanted, rel=1e-4)


def test_limits_follow_each_utterance_and_not_the_longest(tmp_path: Path) -> None:
    model, frames = ending(joined(tmp_path, "phi"), -50.0), frames_of([4, 4, 4])
    most = replace(FREE, max_tokens_per_second=3, extra_tokens=1, max_tokens=20)
    found = search(model, frames, [0.5, 4.0, 60.0], most)
    assert [len(each.tokens) for each in found] == [2, 13, 20]
    assert all(each.at_limit for each in found)
    eager = ending(model, 150.0)
    least = replace(FREE, min_tokens_per_second=2)
    found = search(eager, frames, [0.4, 1.0, 3.0], least)
    assert [len(each.tokens) for each in found] == [0, 2, 6]
    assert not any(each.at_limit for each in found)


def test_a_prompt_that_is_drawn_is_that_of_the_utterance_in_every_batch(tmp_path: Path) -> None:
    """Texts and scores are those of a model that has the drawn template alone."""
    templates = ["USER: {speech} amber: ", "{speech} birch cedar: ", "{speech} delta "]
    prompt = Prompt(templates[0], variants=templates[1:], search="drawn")
    model = joined(tmp_path, prompt=prompt)
    frames, ids = frames_of([3, 22, 9, 14]), ["a-1", "b-2", "c-3", "d-4"]
    seconds = seconds_of(frames)
    chosen = model.builder.choose_templates(ids)
    assert len(set(chosen)) > 1
    drawn = search(model, frames, seconds, FREE, utterance_ids=ids)
    for index, found in enumerate(drawn):
        own = Prompt(templates[chosen[index]])
        model.builder = PromptBuilder(model.tokenizer, own)
        (alone,) = search(model, frames[index : index + 1], seconds[index : index + 1], FREE)
        assert found.tokens == alone.tokens
        assert found.score == pytest.approx(alone.score, rel=1e-4)


@pytest.mark.parametrize("projector", [Linear("linear", 2, 24), GATED])
def test_a_context_is_read_before_the_speech_in_every_template(
    projector: Projector, tmp_path: Path
) -> None:
    """Texts and scores are those of a model whose templates have it; another text in its place
    gives other scores.
    """
    prompt = Prompt("USER: {speech} amber: ", variants=["{speech} birch cedar: "], search="drawn")
    full = Prompt(
        "USER: delta {speech} amber: ", variants=["delta {speech} birch cedar: "], search="drawn"
    )
    model = joined(tmp_path, prompt=prompt, projector=projector)
    frames, ids = frames_of([3, 22, 9, 14]), ["a-1", "b-2", "c-3", "d-4"]

    def find(context: str) -> list[Hypothesis]:
        constraints = replace(FREE, context=context)
        return search(model, frames, seconds_of(frames), constraints, utterance_ids=ids)

    found, without, other = find("delta"), find(""), find("cedar cedar")
    model.builder = PromptBuilder(model.tokenizer, full)
    assert found == find("")
    assert len({tuple(each.score for each in texts) for texts in (found, without, other)}) == 3


def test_the_fewest_tokens_never_exceed_the_most() -> None:
    both = replace(
        FREE, max_tokens=10, max_tokens_per_second=2, extra_tokens=1, min_tokens_per_second=5
    )
    assert token_limits(both, [0.0, 1.0, 100.0]) == ([0, 3, 10], [1, 3, 10])
    assert token_limits(FREE, [0.1, 100.0]) == ([0, 0], [12, 12])


def repeats(found: Hypothesis, order: int) -> bool:
    grams = [
        tuple(found.tokens[start : start + order]) for start in range(len(found.tokens) - order + 1)
    ]
    return len(set(grams)) < len(grams)


def test_no_n_gram_is_repeated_where_that_is_forbidden(tmp_path: Path) -> None:
    model, frames = joined(tmp_path), frames_of([3, 22, 9])
    seconds, long = seconds_of(frames), replace(FREE, max_tokens=30)
    assert any(repeats(found, 2) for found in search(model, frames, seconds, long))
    assert not any(
        repeats(found, 2)
        for found in search(model, frames, seconds, replace(long, no_repeat_ngram=2))
    )


def test_an_end_at_once_is_the_empty_text(tmp_path: Path) -> None:
    model, frames = ending(joined(tmp_path, "phi"), 100.0), frames_of([5, 9])
    for found, each in zip(search(model, frames, [1.0, 1.0], FREE), frames, strict=True):
        assert (found.text, found.tokens) == ("", [])
        assert found.score == pytest.approx(
            float(reference(model, each, [])[0, model.builder.eos]), abs=1e-4
        )


def test_a_padding_token_that_is_the_end_changes_nothing(tmp_path: Path) -> None:
    frames = frames_of(LENGTHS)
    one, other = (
        ending(joined(tmp_path / pad.strip("</>"), "phi", pad=pad), 3.0)
        for pad in ("<pad>", "</s>")
    )
    seconds = seconds_of(frames)
    texts = [found.tokens for found in search(one, frames, seconds, FREE)]
    assert texts == [found.tokens for found in search(other, frames, seconds, FREE)]
    assert len({len(tokens) for tokens in texts}) > 2


def likely_tokens(model: SpeechLLM, likely: list[int]) -> SpeechLLM:
    """Makes tokens likelier than all others, each than the next."""
    with torch.no_grad():
        for rank, token in enumerate(likely):
            model.llm.lm_head.bias[token] = 1000.0 - 100 * rank
    return model


def test_a_letter_that_the_limit_of_tokens_cuts_is_dropped(tmp_path: Path) -> None:
    model = joined(tmp_path, "phi")
    a, first_byte, b, other_byte = (
        model.tokenizer.convert_tokens_to_ids(piece) for piece in ("a", "Ã", "b", "ä")
    )  # a byte-level vocabulary writes the bytes 0xC3 and 0xE4 so
    likely_tokens(model, [a, first_byte, b, other_byte])
    frames = frames_of([9])

    def text(max_tokens: int) -> str:
        constraints = replace(GREEDY, max_tokens=max_tokens, no_repeat_ngram=1)
        [found] = search(model, frames, seconds_of(frames), constraints)
        assert found.at_limit == (len(found.tokens) == max_tokens)
        return found.text

    assert text(1) == "a"
    assert text(2) == "a"
    assert text(3) == "a\ufffdb"
    assert text(4) == "a\ufffdb", "one in the middle is the text's own"
    likely_tokens(model, [a, first_byte, model.builder.eos, b])
    assert text(9) == "a\ufffd", "the LLM has ended it so"
