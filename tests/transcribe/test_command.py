"""``python -m components.transcribe`` as a user runs it: formats, folders, standard input, exit
codes.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from components.audio.sound import RATE
from components.text.joining import Word
from components.transcribe import Transcriber
from components.transcribe.__main__ import main
from components.transcribe.export import export
from components.transcribe.formats import FORMATS, captions
from components.transcribe.inputs import list_inputs, output_paths
from components.transcribe.published import PUBLISHED, exported_folder, published_model
from components.transcribe.setup import DESCRIPTION
from components.transcribe.transcript import Passage, Transcript
from libretto import load
from tests import world as tones
from tests.conftest import REPOSITORY
from tests.errors import refused
from tests.transcribe.test_transcriber import long_tone, save_bridge


@pytest.fixture
def model(world: Path) -> Path:
    save_bridge()
    return world


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Recordings of several formats and rates, some of them broken, and other files."""
    where = tmp_path / "talks"
    (where / "deep/er").mkdir(parents=True)
    for seed, (name, rate) in enumerate(
        [("a.flac", RATE), ("b.wav", 8_000), ("deep/c.ogg", 44_100), ("deep/er/d.mp3", 22_050)]
    ):
        soundfile.write(where / name, np.repeat(tones.tone("amber birch cedar", seed), 2), rate)
    soundfile.write(where / "empty.wav", np.zeros(0, np.float32), RATE)
    soundfile.write(where / "nan.wav", np.full(9000, np.nan, np.float32), RATE, subtype="FLOAT")
    (where / "deep/broken.FLAC").write_bytes((where / "a.flac").read_bytes()[:900])
    (where / "notes.txt").write_text("not a recording")
    (where / ".hidden.wav").write_text("not shown")
    return where


GOOD, BAD = (
    ("a.flac", "b.wav", "deep/c.ogg", "deep/er/d.mp3"),
    ("deep/broken.FLAC", "empty.wav", "nan.wav"),
)


def command(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "components.transcribe", *arguments],
        capture_output=True,
        env=environment,
    )


def test_a_folder_prints_one_line_for_every_recording_and_failure(
    model: Path, folder: Path
) -> None:
    done = command(str(folder), "--set", "greedy")
    assert done.returncode == 1
    lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert [name for name, _ in lines] == [str(folder / name) for name in GOOD]
    transcriber = Transcriber.load(constraints="greedy")
    assert [text for _, text in lines] == [transcriber(folder / name).text for name in GOOD]
    failures = [line for line in done.stderr.decode().splitlines() if line.startswith(str(folder))]
    assert [line.partition(": ")[0] for line in failures] == [str(folder / name) for name in BAD]
    assert all(line.partition(": ")[2] for line in failures)
    assert "Traceback" not in done.stderr.decode()


class Pipe:
    """Standard input with some bytes in it."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_standard_input_is_a_recording(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder / "a.flac"), "--set", "ctc"]) == 0
    text = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", Pipe((folder / "a.flac").read_bytes()))
    assert main(["-", "--set", "ctc"]) == 0
    assert capsys.readouterr().out == text
    monkeypatch.setattr(sys, "stdin", Pipe(b""))
    assert main(["-", "--set", "ctc"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith("-: unreadable")


def test_standard_input_is_read_into_a_temporary_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its length is then known, a WAV that was written to a pipe is complete, and the file is
    removed.
    """
    soundfile.write(tmp_path / "a.wav", long_tone(50), RATE)
    assert main([str(tmp_path / "a.wav"), "--set", "ctc"]) == 0
    text = capsys.readouterr().out
    piped = bytearray((tmp_path / "a.wav").read_bytes())
    for offset in (4, piped.index(b"data") + 4):
        struct.pack_into("<I", piped, offset, 0xFFFFFFFF)
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "kept"))
    monkeypatch.setenv("LIBRETTO_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.setattr(sys, "stdin", Pipe(bytes(piped)))
    assert main(["-", "--set", "ctc"]) == 0
    assert capsys.readouterr().out == text
    last = json.loads((tmp_path / "progress").read_text().splitlines()[-1])
    assert last["done"] == pytest.approx(last["total"], abs=0.1)
    assert last["total"] == pytest.approx(soundfile.info(tmp_path / "a.wav").duration, abs=0.01)
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("form", ["txt", "json", "tsv"])
def test_an_odd_file_costs_a_line_and_not_the_run(
    form: str, model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latin = os.fsdecode(b"caf\xe9.flac")
    (folder / "a.flac").rename(folder / latin)
    (folder / "b.raw").write_bytes(bytes(9000))
    assert main([str(folder), str(folder / "b.raw"), "--set", "ctc", "--format", form]) == 1
    printed = capsys.readouterr()
    assert "caf\\xe9.flac" in printed.out.replace("\\\\", "\\")
    assert f"{folder / 'b.raw'}: unreadable: samplerate" in printed.err
    assert (
        main(
            [str(folder / latin), "--set", "ctc", "--format", form, "--out", str(tmp_path / "out")]
        )
        == 0
    )
    assert (tmp_path / "out" / latin).with_suffix(f".{form}").read_text()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere.wav"], "nowhere.wav"),
        (["{folder}/deep", "--format", "srt"], "--out"),
        (["{folder}", "--set", "constraint"], "constraint"),
        (["{folder}", "--model", "{folder}"], "no exported model"),
        (["{folder}", "--segment-seconds", "1"], "at least"),
        ([".dvc"], ".dvc"),
    ],
)
def test_a_wrong_parameter_stops_before_any_work(
    arguments: list[str], named: str, model: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(folder=folder) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert named in printed.err
    assert printed.out == ""


def test_a_workspace_without_a_model_is_refused(
    world: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder)]) == 2
    assert "models/bridge" in capsys.readouterr().err


def test_texts_have_the_folders_of_their_recordings(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(folder / "a.wav", tones.hiss(2), RATE)
    assert (
        main([str(folder), "--set", "ctc", "--format", "srt", "--out", str(tmp_path / "out")]) == 1
    )
    files = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert files == {"a.flac.srt", "a.wav.srt", "b.srt", "deep/c.srt", "deep/er/d.srt"}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", [[], ["batch"]])
def test_recordings_of_a_folder_that_are_left_out_are_named(
    command: list[str],
    model: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of other formats, links that lead nowhere, pipes; what is no recording is not."""
    talks = tmp_path / "mixed"
    talks.mkdir()
    for name in ("a.flac", "A.SPH", "memo.m4a", "talk.WEBM", "notes.txt", ".hidden.m4a"):
        shutil.copyfile(folder / "a.flac", talks / name)
    (talks / "gone.wav").symlink_to("nowhere")
    os.mkfifo(talks / "pipe.ogg")
    target = [str(tmp_path / "table")] if command else []
    assert main([*command, str(talks), *target, "--set", "ctc"]) == 1
    printed = capsys.readouterr()
    left_out = {line.partition(":")[0] for line in printed.err.splitlines() if "left out" in line}
    assert left_out == {
        str(talks / name) for name in ("gone.wav", "memo.m4a", "pipe.ogg", "talk.WEBM")
    }
    if command:
        assert "2 recordings, 2 with a transcript, 0 without" in printed.out
        assert "4 left out" in printed.out
    else:
        assert len(printed.out.splitlines()) == 2


def test_a_folder_of_other_formats_alone_is_no_success(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "memo.m4a").write_bytes(b"1")
    assert main([str(tmp_path)]) == 1
    assert "memo.m4a" in capsys.readouterr().err


def test_the_longest_names_are_written_and_what_cannot_be_costs_one_line(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for name in ("a.wav", f"{'b' * 251}.wav", "c.wav"):
        shutil.copyfile(folder / "a.flac", many / name)
    out = tmp_path / "out"
    assert main([str(many), "--set", "ctc", "--out", str(out)]) == 0
    assert {path.stem for path in out.iterdir()} == {"a", "b" * 251, "c"}
    capsys.readouterr()
    assert main([str(many), "--set", "ctc", "--format", "json", "--out", str(out)]) == 1
    assert {path.stem[:2] for path in out.glob("*.json")} == {"a", "c"}
    failures = [line for line in capsys.readouterr().err.splitlines() if "b.json" in line]
    assert len(failures) == 1


def test_letters_that_a_terminal_lacks_are_escaped(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(folder / "a.flac", folder / "ž.flac")
    buffer = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(buffer, encoding="latin-1"))
    assert main([str(folder / "ž.flac"), str(folder / "a.flac"), "--set", "ctc"]) == 1
    first, second = buffer.getvalue().decode("latin-1").splitlines()
    assert r"\u017e.flac" in first and "a.flac" in second
    assert "latin-1" in capsys.readouterr().err


def test_two_texts_never_share_a_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").touch()
    with refused(str(tmp_path / "one/a.wav"), str(tmp_path / "two/a.wav")):
        output_paths(
            list_inputs([str(tmp_path / "one"), str(tmp_path / "two")]).inputs, Path("out"), "txt"
        )
    above = output_paths(list_inputs([str(tmp_path)]).inputs, Path("out"), "txt")
    assert sorted(above.values()) == [Path("out/one/a.txt"), Path("out/two/a.txt")]
    assert len(list_inputs([str(tmp_path), str(tmp_path / "one/a.wav")]).inputs) == 2


def test_a_kill_leaves_no_half_text(
    model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        main([str(folder / "a.flac"), "--set", "ctc", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out/a.txt").exists()


def transcript() -> Transcript:
    words = [Word(f"word{index}", index * 0.5, index * 0.5 + 0.4, 0.5) for index in range(30)]
    late = [Word("a<b", 3700.0, 3700.2), Word("&", 3701.5, 3702.0)]
    return Transcript(
        "talk\t1.wav",
        3702,
        3600,
        [
            Passage(0, 15, " ".join(word.text for word in words), -3.0, words),
            Passage(15, 16, "", float("-inf"), []),
            Passage(20, 30, "no times", float("nan"), []),
            Passage(3699, 3702, "a<b &", -1.0, late),
        ],
    )


def test_captions_are_short_and_end_at_pauses() -> None:
    all_captions = captions(transcript())
    assert " ".join(caption.text for caption in all_captions) == transcript().text
    assert all(
        len(caption.text) <= 84 and caption.end - caption.start <= 7
        for caption in all_captions
        if caption.text != "no times"
    )
    assert [caption.text for caption in all_captions[-3:]] == ["no times", "a<b", "&"]
    assert all(one.end <= other.start for one, other in pairwise(all_captions))


def test_every_format_has_the_text() -> None:
    texts = {name: form(transcript()) for name, form in FORMATS.items()}
    assert texts["txt"] == transcript().text + "\n"
    data = json.loads(texts["json"])
    assert texts["json"].count("\n") == 1
    assert (data["text"], data["silent_seconds"]) == (transcript().text, 3600)
    assert [len(passage["words"]) for passage in data["segments"]] == [30, 0, 0, 2]
    assert [passage["score"] for passage in data["segments"]] == [-3, None, None, -1]
    blocks = texts["srt"].strip().split("\n\n")
    assert [block.split("\n")[0] for block in blocks] == [
        str(number + 1) for number in range(len(blocks))
    ]
    assert blocks[-1].split("\n")[1:] == ["01:01:41,500 --> 01:01:42,000", "&"]
    assert texts["vtt"].startswith("WEBVTT\n\n00:00:00.000 --> ")
    assert "a&lt;b" in texts["vtt"] and "&amp;" in texts["vtt"]
    rows = [line.split("\t") for line in texts["tsv"].splitlines()]
    assert {row[0] for row in rows} == {"talk 1.wav"}
    assert [row[1:3] for row in rows] == [
        ["0.000", "15.000"],
        ["15.000", "16.000"],
        ["20.000", "30.000"],
        ["3699.000", "3702.000"],
    ]


def test_a_long_recording_has_captions_in_order(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "long.flac", long_tone(80), RATE)
    assert (
        main(
            [
                str(tmp_path / "long.flac"),
                "--format",
                "vtt",
                "--set",
                "ctc",
                "--segment-seconds",
                "6",
            ]
        )
        == 0
    )
    printed = capsys.readouterr()
    times = [
        sum(float(part) * 60**power for power, part in enumerate(reversed(clock.split(":"))))
        for clock in re.findall(r"\d\d:\d\d:\d\d\.\d{3}", printed.out)
    ]
    assert len(times) > 6
    assert all(one <= other for one, other in zip(times[::2], times[1::2]))
    assert times[::2] == sorted(times[::2])


def test_progress_goes_to_standard_error_and_its_file(
    model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRETTO_PROGRESS", str(tmp_path / "progress"))
    soundfile.write(tmp_path / "silent.wav", np.zeros(50 * RATE), RATE)
    assert main([str(folder / "a.flac"), str(tmp_path / "silent.wav"), "--set", "ctc"]) == 0
    last = json.loads((tmp_path / "progress").read_text().splitlines()[-1])
    assert last["stage"] == "transcribe"
    assert last["done"] == pytest.approx(last["total"], abs=0.1) and last["total"] > 50


def test_a_long_recording_without_text_costs_a_line(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of sound, not of silence; the exit code is that of success."""
    results = [
        Transcript("talk", 13.0, 1.0, []),
        Transcript("silence", 13.0, 12.0, []),
        Transcript("short", 2.0, 0.0, []),
        transcript(),
    ]
    monkeypatch.setattr(Transcriber, "stream", lambda self, *_: iter(results))
    names = [str(folder / name) for name in GOOD]
    lengths = dict.fromkeys([result.name for result in results], 1.0)
    monkeypatch.setattr("components.transcribe.__main__._lengths", lambda inputs: lengths)
    assert main([*names, "--set", "ctc"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "no text" in line and "talk" in line and "12.0 s" in line]
    assert not [line for line in lines if "silence:" in line or "short:" in line]


@pytest.mark.parametrize(("kind", "is_said"), [("spoken", True), ("table", False)])
def test_a_model_of_generated_voices_says_so(
    kind: str,
    is_said: bool,
    model: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In its workspace, and where it was exported to."""
    tones.change("catalogue/corpus.yaml", {"tones.train.tones.kind": kind})
    export(tmp_path / "exported", with_bases=True)
    for arguments in ([], ["--model", str(tmp_path / "exported")]):
        capsys.readouterr()
        assert main([str(folder / "a.flac"), "--set", "ctc", *arguments]) == 0
        printed = capsys.readouterr()
        assert ("espeak-ng" in printed.err) == is_said
        assert "espeak-ng" not in printed.out


def test_the_published_model_is_taken_where_none_is_named(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In its workspace, and from any other folder that is no workspace; a point names the model of
    the workspace.
    """
    name, ctc = str(folder / "a.flac"), ("--set", "ctc")
    assert main([name, *ctc]) == 0
    (own, messages) = capsys.readouterr()
    assert "models/human" not in messages
    export(Path("models/human"), with_bases=True)
    for arguments, model_name in (((), "models/human"), (("--model", "."), "this workspace")):
        assert main([name, *ctc, *arguments]) == 0
        text, messages = capsys.readouterr()
        assert model_name in messages and text == own
    for named, bridge in ((None, "models/human/bridge"), (".", "models/bridge")):
        folders = load(named, constraints="ctc").decoder.folders
        assert folders.bridge.resolve() == Path(bridge).resolve()


def test_without_a_workspace_the_checkout_has_the_published_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert published_model() in (None, REPOSITORY / PUBLISHED)
    (tmp_path / "params.yaml").touch()
    assert published_model() is None
    (tmp_path / PUBLISHED).mkdir(parents=True)
    (tmp_path / PUBLISHED / DESCRIPTION).touch()
    assert published_model() == PUBLISHED
    assert exported_folder(Path()) is None
    assert exported_folder(PUBLISHED) == PUBLISHED
    assert exported_folder(tmp_path / "models") == tmp_path / "models"
