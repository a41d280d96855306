"""What a user has to know of a transcription besides its text, in one line each.

In: what a model was trained on, or a transcript. Out: a sentence, empty where there is nothing to
say; an error where a folder of the model is missing. Cost: nothing.
"""

from __future__ import annotations

from pathlib import Path

from components.config import catalogue
from components.config.errors import InputError
from components.runtime.artifact import RECORD, check_files, recorded_digests
from components.transcribe.transcript import Transcript

GENERATED_KINDS = {"spoken"}  # of sources whose voices espeak-ng generates
# Seconds of sound that hardly ever have no word; the pauses of read speech are shorter.
SPEECH_S = 5.0


def has_generated_speech(corpus: str) -> bool:
    """Whether all training speech of a corpus has generated voices."""
    sources = catalogue.corpus(corpus).sources["train"].values()
    return bool(sources) and all(settings["kind"] in GENERATED_KINDS for settings in sources)


def describe_voices(generated_speech: bool) -> str:
    """A sentence about the voices that a model knows, where these are generated ones alone."""
    if not generated_speech:
        return ""
    return (
        "this model was trained on the embedded voices of espeak-ng alone and does not understand "
        "people; docs/guide/corpora.md says how to train on recordings"
    )


def describe_missing_text(transcript: Transcript) -> str:
    """A sentence where more than ``SPEECH_S`` seconds of sound have no text."""
    sound_s = transcript.seconds - transcript.silent
    if transcript.text or sound_s <= SPEECH_S:
        return ""
    return f"no text in {sound_s:.1f} s of sound: no speech, or none that this model understands"


def check_model_folders(*folders: Path) -> None:
    """Raises InputError where a folder of the workspace's model is missing, or a file in it is
    damaged: DVC removes what a stage wrote before the stage runs again, so an experiment that stops
    leaves a gap.
    """
    for folder in folders:
        if not (folder / RECORD).is_file():
            raise InputError(
                f"{folder} is missing or incomplete.",
                subject=str(folder),
                hint="After an experiment that stopped, 'libretto restore' brings it back; else "
                "'dvc pull' if a remote has it, or 'dvc repro'.",
            )
        digests = recorded_digests(folder).items()  # of files elsewhere too
        check_files(folder, {name: digest for name, digest in digests if (folder / name).is_file()})
