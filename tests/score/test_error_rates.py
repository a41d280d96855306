"""The library call: figures, forms of its arguments, and refused arguments."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from components.score import error_rates, insertions, intervals, metrics, table
from components.score.error_rates import score
from tests.errors import refused
from tests.score.workspace import CLEAN, COUNTS, run_score

IDS = [name for name, *_ in CLEAN]
SPEAKERS = [speaker for _, speaker, *_ in CLEAN]
REFERENCES = [reference for _, _, reference, *_ in CLEAN]
TEXTS = [text for _, _, _, text, _ in CLEAN]


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize("form", ["casefold", "as-is", "whisper"])
def test_the_figures_are_those_of_the_stage(form: str) -> None:
    rates = score(REFERENCES, TEXTS, text_form=form, speakers=SPEAKERS, resamples=200)
    figures = run_score(form)["clean"]["free"]
    assert {key: getattr(rates, key) for key in COUNTS} == {key: figures[key] for key in COUNTS}
    assert rates.wer == pytest.approx(figures["wer"], abs=1e-6)
    assert rates.cer == pytest.approx(figures["cer"], abs=1e-6)
    assert rates.interval is not None
    assert rates.interval.low == pytest.approx(figures["wer_low"], abs=1e-6)
    assert rates.interval.high == pytest.approx(figures["wer_high"], abs=1e-6)
    assert rates.interval.by == figures["interval_by"]
    assert rates.insertion_kinds == figures["insertion_kinds"]
    assert rates.text_form == form


def test_dicts_are_matched_by_id() -> None:
    by_list = score(REFERENCES, TEXTS, speakers=SPEAKERS)
    by_id = score(
        dict(zip(IDS, REFERENCES)),
        dict(zip(IDS[::-1], TEXTS[::-1])),
        speakers=dict(zip(IDS[2:] + IDS[:2], SPEAKERS[2:] + SPEAKERS[:2])),
    )
    assert by_id == by_list


def test_without_speakers_utterances_are_resampled() -> None:
    rates = score(REFERENCES, TEXTS)
    assert rates.interval is not None and rates.interval.by == "utterance"
    assert score(REFERENCES, TEXTS, resamples=0).interval is None


def test_without_words_the_rates_are_zero() -> None:
    for references, hypotheses in (([], []), ([""], ["thank you"])):
        rates = score(references, hypotheses)
        assert (rates.wer, rates.cer, rates.words, rates.interval) == (0.0, 0.0, 0, None)


def test_wrong_arguments_are_refused() -> None:
    with refused("text_form", "'whispr'", "'whisper'"):
        score(["a"], ["a"], text_form="whispr")
    with refused("resamples", "-1"):
        score(["a"], ["a"], resamples=-1)
    with refused("hypotheses", "2", "1"):
        score(["a"], ["a", "b"])
    with refused("speakers", "0", "1"):
        score(["a"], ["a"], speakers=[])
    with refused("b", "hypotheses"):
        score({"a": "x", "b": "y"}, {"a": "x"})
    with refused("c", "speakers"):
        score({"a": "x"}, {"a": "x"}, speakers={"a": "ann", "c": "bob"})
    with refused("hypotheses"):
        score({"a": "x"}, ["x"])
    with refused("hypotheses"):
        score(["x"], {"a": "x"})
    with refused("references"):
        score("text", "text")


@pytest.mark.parametrize(
    "module",
    [error_rates, insertions, intervals, metrics, table],
    ids=lambda module: module.__name__,
)
def test_examples_in_docstrings(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted and not result.failed
