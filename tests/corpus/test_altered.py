"""Recordings under a condition: what is kept, what is refused, and the same bytes each time."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from components.audio.sound import RATE, read_waveform
from components.audio.tempo import change_tempo
from components.corpus.listing import SILENT
from components.corpus.manifest import restore_original
from components.corpus.source import build_source
from components.corpus.sources import altered
from components.corpus.sources.altered import NO_WORD, truncate_text
from tests.corpus.clips import BROKEN, clip, put
from tests.errors import refused

TEXTS = {"a": "one two three four", "b": "Some more words, here", "c": "supercalifragilistic word"}
INNER = {"kind": "table", "root": "said", "table": "said.tsv", "language": "en"}
NOISE = {"kind": "clips", "root": "noises", "folders": ["hiss"]}
CONDITIONS = [{"snr_db": 5}, {"tempo": 0.8}, {"cut": 0.5}, {"margin_seconds": 0.5}]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three utterances at three rates, one in stereo, and two clips of noise."""
    folder = tmp_path / "said"
    for number, (name, rate) in enumerate({"a": 16_000, "b": 44_100, "c": 8_000}.items()):
        put(
            folder / f"{name}.wav",
            clip(rate=rate, channels=1 + number % 2, form="WAV", seed=number),
        )
    list_texts(folder, TEXTS)
    put(tmp_path / "noises/hiss/one.flac", clip(seed=7))
    put(tmp_path / "noises/hiss/two.flac", clip(seed=8, seconds=1.0))
    monkeypatch.setenv("LIBRETTO_ROOT_SAID", str(folder))
    monkeypatch.setenv("LIBRETTO_ROOT_NOISES", str(tmp_path / "noises"))
    return folder


def list_texts(folder: Path, texts: dict[str, str], suffix: str = ".wav") -> None:
    rows = [
        f"{name}{'' if '.' in name else suffix}\t{text}\tspeaker-{name[0]}\n"
        for name, text in texts.items()
    ]
    (folder / "said.tsv").write_text("path\ttext\tspeaker\n" + "".join(rows))


def under(role: str = "test", **settings):
    return build_source("set", role, {"kind": "altered", "source": INNER, **settings})


def audio(origin) -> dict[str, bytes]:
    return {row.id: origin.locate(row.path).read_bytes() for row in origin.list_utterances()[0]}


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: next(iter(condition)))
def test_rows_describe_the_files_and_speakers(condition: dict, root: Path) -> None:
    origin = under(**condition)
    accepted, rejected = origin.list_utterances()
    plain = {row.id: row for row in build_source("plain", "test", INNER).list_utterances()[0]}
    assert len(accepted) + len(rejected) == len(plain)
    assert len(accepted) >= 2
    for row in accepted:
        before = plain[restore_original(row).id]
        assert restore_original(row).sha256 == before.sha256
        assert row.id.startswith(f"{before.id}-")
        assert re.fullmatch(r"[A-Za-z0-9_-]+", row.id), (
            "a dot would end the name of a member of a tar"
        )
        assert (row.speaker, row.language, row.split) == (before.speaker, "en", "test")
        assert row.text == before.text or "cut" in condition
        assert (row.sample_rate, row.samples) == (RATE, len(read_waveform(origin.locate(row.path))))
    assert not {row.id for row in accepted} & set(plain)


def test_every_change_is_the_one_that_is_set(root: Path) -> None:
    before = read_waveform(root / "a.wav")
    step = 2**-15  # of the 16 bits of the file
    altered = {
        next(iter(condition)): read_waveform(
            under(**condition).locate(under(**condition).list_utterances()[0][0].path)
        )
        for condition in CONDITIONS
    }
    assert np.abs(altered["tempo"] - change_tempo(before, 0.8)).max() <= step
    assert np.abs(altered["cut"] - before[: len(before) // 2]).max() <= step
    assert np.abs(altered["margin_seconds"][8_000:-8_000] - before).max() <= step
    noise = altered["snr_db"] - before
    assert 10 * np.log10(np.mean(before**2) / np.mean(noise**2)) == pytest.approx(5, abs=0.1)


def test_words_that_end_in_the_share_accepted_are_the_text(root: Path) -> None:
    accepted, rejected = under(cut=0.5).list_utterances()
    assert {row.id: row.text for row in accepted} == {
        "a-cut-0_5": "one two",
        "b-cut-0_5": "Some more",
    }
    assert [(row.id, row.path, row.reason) for row in rejected] == [("c-cut-0_5", "c.wav", NO_WORD)]


@pytest.mark.parametrize(
    ("text", "share", "remaining"),
    [
        ("ab cd", 0.39, ""),
        ("ab cd", 0.4, "ab"),
        ("ab cd", 0.99, "ab"),
        ("ab  cd e", 0.75, "ab  cd"),
        ("四五六", 0.9, ""),
        ("", 0.5, ""),
    ],
)
def test_a_word_is_accepted_where_its_last_letter_is(
    text: str, share: float, remaining: str
) -> None:
    assert truncate_text(text, share) == remaining


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: next(iter(condition)))
def test_the_same_bytes_in_another_work_cache(
    condition: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, rows = audio(under(**condition)), under(**condition).list_utterances()
    monkeypatch.setenv("LIBRETTO_WORK", str(tmp_path / "other"))
    monkeypatch.setenv("LIBRETTO_WORKERS", "2")
    monkeypatch.setattr(altered, "BLOCK", 1)
    assert audio(under(**condition)) == first
    assert [(row.id, row.sha256) for row in under(**condition).list_utterances()[0]] == [
        (row.id, row.sha256) for row in rows[0]
    ]


def test_an_utterance_is_the_same_in_any_block(root: Path) -> None:
    first = audio(under(snr_db=0, noise=NOISE))
    list_texts(root, {"c": TEXTS["c"], "a": TEXTS["a"]})
    fewer = audio(under(snr_db=0, noise=NOISE))
    assert len(fewer) == 2
    assert fewer.items() <= first.items()


@pytest.mark.parametrize("changed", [{"seed": 2}, {"noise": NOISE}, {"snr_db": 4}])
def test_another_setting_gives_other_audio(changed: dict) -> None:
    assert not set(audio(under(**{"snr_db": 5, **changed})).values()) & set(
        audio(under(snr_db=5)).values()
    )


def test_a_file_that_the_work_cache_has_lost_is_generated_again(work: Path) -> None:
    first, origin = audio(under(tempo=1.1)), under(tempo=1.1)
    path = origin.list_utterances()[0][0].path
    shutil.rmtree(work)
    assert under(tempo=1.1).locate(path).read_bytes() == first["a-tempo-1_1"]


@pytest.mark.parametrize("change", ["text in place of sound", "half a WAV", "silence", "NaN"])
def test_a_broken_file_is_rejected_with_the_reason_of_its_source(change: str, root: Path) -> None:
    suffix, data, _ = BROKEN[change]
    put(root / f"bad{suffix}", data)
    list_texts(root, {**TEXTS, f"bad{suffix}": "words that nobody hears"})
    reason = build_source("plain", "test", INNER).list_utterances()[1][0].reason
    accepted, rejected = under(tempo=0.9).list_utterances()
    assert len(accepted) == 3
    assert [(row.id, row.path, row.reason) for row in rejected] == [
        ("bad-tempo-0_9", f"bad{suffix}", reason)
    ]


def test_speech_that_starts_after_the_cut_is_rejected_and_non_speech_accepted(root: Path) -> None:
    late = np.concatenate([np.zeros(8_000), 0.1 * np.random.default_rng(0).uniform(-1, 1, 4_000)])
    put(root / "a.wav", altered.encode_flac(late))
    assert [row.reason for row in under(cut=0.5).list_utterances()[1] if row.path == "a.wav"] == [
        SILENT
    ]
    silent = {**INNER, "columns": {"text": None, "speaker": None}}
    accepted, rejected = under("nonspeech-test", source=silent, cut=0.5).list_utterances()
    assert [row.text for row in accepted] == ["", "", ""]
    assert not rejected


def test_silent_non_speech_has_no_ratio_to_noise(root: Path) -> None:
    put(root / "b.wav", clip(form="WAV", level=0.0))
    accepted, rejected = under(
        "nonspeech-test", source={**INNER, "columns": {"text": None, "speaker": None}}, snr_db=5
    ).list_utterances()
    assert len(accepted) == 2
    assert [(row.id, row.reason.partition(":")[0]) for row in rejected] == [("b-snr-5", "no ratio")]


def test_generated_speech_keeps_the_names_of_the_set_that_it_is_of(root: Path) -> None:
    inner = {
        "kind": "synthetic",
        "clips": 3,
        "seed": 1,
        "seconds": [0.2, 0.3],
        "level_db": [-30, -20],
    }
    plain = build_source("noises", "nonspeech-test", {**inner, "clips": 5}).list_utterances()[0]
    accepted, _ = under("nonspeech-test", source=inner, name="noises", tempo=0.9).list_utterances()
    assert [row.id for row in accepted] == [
        f"noises-00000{number}-tempo-0_9" for number in range(3)
    ]
    assert [restore_original(row).sha256 for row in accepted] == [
        row.sha256 for row in plain[:3]
    ], "its first clips are those of the whole set"
    assert (
        next(row.id for row in under("nonspeech-test", source=inner, cut=0.5).list_utterances()[0])
        == "set-000000-cut-0_5"
    )


def test_the_scan_sees_what_is_changed_and_its_noise(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = [under(snr_db=5, noise=NOISE).scan()]
    assert [path for path, _ in scans[0]["files"]] == ["a.wav", "b.wav", "c.wav", "said.tsv"]
    put(tmp_path / "noises/hiss/three.flac", clip(seed=9))
    scans.append(under(snr_db=5, noise=NOISE).scan())
    list_texts(root, {**TEXTS, "a": "one word"})
    scans.append(under(snr_db=5, noise=NOISE).scan())
    assert len({scan["digest"] for scan in scans}) == 3
    assert str(tmp_path) not in str(scans)
    shutil.copytree(root, tmp_path / "elsewhere")
    monkeypatch.setenv("LIBRETTO_ROOT_SAID", str(tmp_path / "elsewhere"))
    assert under(snr_db=5, noise=NOISE).scan() == scans[-1]


def test_noise_of_which_nothing_is_accepted_stops(tmp_path: Path) -> None:
    with refused("set", "'noise'"):
        under(snr_db=5, noise={**NOISE, "min_seconds": 50}).list_utterances()


NESTED = {"kind": "altered", "source": INNER, "tempo": 0.9}


@pytest.mark.parametrize(
    ("settings", "subject", "parts"),
    [
        ({}, "set", "snr_db tempo cut margin_seconds"),
        ({"snr_db": 5, "tempo": 0.9}, "set", "snr_db tempo"),
        ({"temop": 0.9}, "temop", "'tempo'"),
        ({"tempo": 0.4}, "set", "'tempo' 0.4 0.5 2"),
        ({"tempo": float("nan")}, "tempo", "nan"),
        ({"cut": 1}, "set", "'cut'"),
        ({"cut": 0}, "set", "'cut'"),
        ({"margin_seconds": 0}, "set", "'margin_seconds'"),
        ({"margin_seconds": 1, "margin_db": 3}, "set", "'margin_db'"),
        ({"around_seconds": 1}, "around_seconds", "'margin_seconds'"),
        ({"margin_seconds": 1, "around_db": -30}, "around_db", "'margin_db'"),
        ({"snr_db": float("inf")}, "snr_db", "inf"),
        ({"snr_db": "loud"}, "snr_db", "loud"),
        ({"tempo": 0.9, "noise": NOISE}, "set", "'tempo' 'noise'"),
        ({"tempo": 0.8, "source": NESTED}, "set", "'source' 'altered'"),
        ({"snr_db": 5, "noise": NESTED}, "set", "'noise' 'altered'"),
        ({"snr_db": 5, "noise": {**NOISE, "rooms": True}}, "set", "'noise' rooms"),
        ({"snr_db": 5, "source": {}}, "set", "'source.kind'"),
        ({"snr_db": 5, "source": {**INNER, "kind": "tabel"}}, "set", "'tabel' 'table'"),
        ({"snr_db": 5, "source": {**INNER, "tabel": "x"}}, "tabel", "'table'"),
        ({"snr_db": 5, "noise": INNER}, "set-noise", "columns.text"),
    ],
)
def test_a_wrong_setting_stops_before_any_work(settings: dict, subject: str, parts: str) -> None:
    with refused(subject, *parts.split()):
        under(**settings)


def test_real_speech_under_real_noise(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRETTO_ROOT_LIBRISPEECH", str(recordings / "real-librispeech"))
    monkeypatch.setenv("LIBRETTO_ROOT_NONSPEECH", str(recordings / "nonspeech"))
    inner = {"kind": "librispeech", "root": "librispeech", "subsets": ["dev-clean", "test-clean"]}
    noise = {
        "kind": "table",
        "root": "nonspeech",
        "table": "nonspeech.tsv",
        "columns": {"text": None, "speaker": None},
    }
    origin, plain = (
        build_source(
            "loud", "test", {"kind": "altered", "source": inner, "noise": noise, "snr_db": 0}
        ),
        build_source("p", "test", inner),
    )
    accepted, rejected = origin.list_utterances()
    assert not rejected
    before = {row.id: row for row in plain.list_utterances()[0]}
    assert {restore_original(row).id for row in accepted} == set(before)
    for row in accepted:
        speech = read_waveform(plain.locate(before[restore_original(row).id].path)).astype(
            np.float64
        )
        altered = read_waveform(origin.locate(row.path)).astype(np.float64)
        scale = altered @ speech / (speech @ speech)  # noise hardly correlates with it
        ratio = 10 * np.log10(
            np.mean((scale * speech) ** 2) / np.mean((altered - scale * speech) ** 2)
        )
        assert ratio == pytest.approx(0, abs=1), (
            "the correlation of speech and noise is small, not none"
        )
