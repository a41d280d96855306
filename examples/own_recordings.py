"""From a folder of recordings to a word error rate, with a finished model.

::

    python examples/own_recordings.py /data/my-recordings --model exported

FOLDER has recordings and a table ``recordings.tsv`` with a header and the columns ``path``,
``text`` and ``speaker``. Without FOLDER, espeak-ng speaks a few sentences into a temporary folder.
``--model`` is an exported model (default: the model of the workspace that is the current folder).
Takes seconds for some minutes of audio.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import soundfile

from libretto import load, score

TABLE = "recordings.tsv"
SENTENCES = {
    "Mario": ["the red table is behind the garden", "seven dogs sleep near the old bridge"],
    "anika": ["she washed the blue jacket at the station", "the library opens at nine"],
}


def speak_recordings(folder: Path) -> None:
    """Writes one WAV file for each sentence, and the table."""
    from components.corpus.generation.espeak import RATE, Espeak

    voice = Espeak()
    rows = [("path", "text", "speaker")]
    for speaker, sentences in SENTENCES.items():
        for index, text in enumerate(sentences):
            samples = voice.speak(
                text, "en-us", speaker, speed=175, pitch=50, pitch_range=50, seed=1
            )
            name = f"{speaker}-{index}.wav"
            soundfile.write(folder / name, samples, RATE)
            rows.append((name, text, speaker))
    (folder / TABLE).write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def read_table(folder: Path) -> list[dict[str, str]]:
    """The rows of the table, each a dict by column."""
    with (folder / TABLE).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def main() -> None:
    """Transcribes the recordings of a folder and prints their word error rate."""
    parser = argparse.ArgumentParser(description="From a folder of recordings to a WER.")
    parser.add_argument("folder", nargs="?", type=Path, help=f"recordings and {TABLE}")
    parser.add_argument("--model", type=Path, metavar="DIR", help="an exported model")
    parser.add_argument("--set", default="", metavar="NAME", help="a constraint set of the model")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.folder is None:
            speak_recordings(folder)
        rows = read_table(folder)
        transcriber = load(options.model, constraints=options.set)
        hypotheses = [transcriber(folder / row["path"]).text for row in rows]

    for row, hypothesis in zip(rows, hypotheses, strict=True):
        print(f"{row['path']}\n  reference:  {row['text']}\n  hypothesis: {hypothesis}")
    rates = score(
        [row["text"] for row in rows], hypotheses, speakers=[row["speaker"] for row in rows]
    )
    print(f"WER {100 * rates.wer:.1f} % of {rates.words} words", end="")
    if rates.interval:
        low, high = 100 * rates.interval.low, 100 * rates.interval.high
        print(f", 95 % interval {low:.1f} to {high:.1f} (by {rates.interval.by})", end="")
    print()


if __name__ == "__main__":
    main()
