"""How long scoring takes: ``python -m bench.scoring [--words N] [--systems N] [--speakers N]``.

Makes hypotheses of two sets of speech and one without from a seed, runs the work of the stage
``score`` on them in a temporary folder, and prints seconds, of the clock and of cores: on a machine
that others use the latter tell more. References are upper case, hypotheses lower case with errors
in one word of twenty, the lengths and the number of speakers those of LibriSpeech's test sets.
Nothing is read but ``params.yaml`` and the catalogue. Takes about as long as it says.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from components.config.params import read_overridden_params
from components.decode.hypotheses import write_hypotheses
from components.runtime.artifact import write_record
from components.runtime.stage import Stage
from components.score.build import work
from components.text.hypothesis import Hypothesis

COMMON = """the of and to a in that he was it his is with as i had for at by on not be from but you which or have her she this all him
were they an so there one my when their said been would me who no will what then some out more up into them could"""
RARE = """colour mister doctor can't twenty hundred seven favour honour i'll we're governor travelling grey saint uh programme machine
letter window morning question garden nobody yesterday river silence manner evening certain among"""
LENGTHS = (3, 45)  # words of an utterance
ERRORS = 0.05  # of words
WORDS_PER_SECOND = 2.7  # words a second


def generate_hypotheses(words: int, systems: int, speakers: int, seed: int) -> list[Hypothesis]:
    """Hypotheses of about so many reference words, for each system."""
    drawn = random.Random(seed)
    rare = RARE.split()
    vocabulary = [
        *COMMON.split() * 3,
        *rare,
        *(f"{one}{other}" for one in rare for other in ("s", "ing")),
    ]
    made, total = [], 0
    while total < words:
        made.append(drawn.choices(vocabulary, k=drawn.randint(*LENGTHS)))
        total += len(made[-1])
    found = []
    for system in range(systems):
        for number, said in enumerate(made):
            text, speaker = _corrupt(said, rare, drawn), f"speaker-{number % speakers}"
            seconds = len(said) / WORDS_PER_SECOND
            found.append(
                Hypothesis(
                    text,
                    score=-1.0,
                    system=f"system-{system}",
                    utterance_id=f"{seed}-{number:06d}",
                    speaker=speaker,
                    language="en",
                    reference=" ".join(said).upper(),
                    duration_s=seconds,
                )
            )
    return found


def _corrupt(said: Sequence[str], rare: Sequence[str], drawn: random.Random) -> str:
    heard: list[str] = []
    for word in said:
        chance = drawn.random() / ERRORS
        heard += (
            [word]
            if chance > 1
            else []
            if chance < 0.3
            else [word, word]
            if chance < 0.5
            else [drawn.choice(rare)]
        )
    return " ".join(heard)


def main() -> None:
    """Measures from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scoring",
        description="Measures the stage score on made-up hypotheses.",
    )
    parser.add_argument(
        "--words", type=int, default=1_000_000, help="reference words, over both sets of speech"
    )
    parser.add_argument("--systems", type=int, default=1)
    parser.add_argument("--speakers", type=int, default=40, help="of each set")
    options = parser.parse_args()
    params = read_overridden_params({"corpus": "librispeech"}, "bench")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree("catalogue", Path(folder) / "catalogue")
        with contextlib.chdir(folder):
            started = time.perf_counter()
            for seed, name in enumerate(
                ("test/test-clean", "test/test-other", "nonspeech-test/synthetic-test")
            ):
                found = generate_hypotheses(
                    options.words // 2 if seed < 2 else 5_000,
                    options.systems,
                    options.speakers,
                    seed,
                )
                path = Path("data/decode") / f"{name}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_hypotheses(path, found)
            write_record(Path("data/decode"), "decode", parameters={}, inputs={})
            made, before = time.perf_counter(), sum(os.times()[:4])
            work(Stage("score", params, ""))
            seconds, used = time.perf_counter() - made, sum(os.times()[:4]) - before
    print(f"made the hypotheses in {made - started:.1f} s")
    print(
        f"scored {options.words:,} reference words, {options.systems} systems, in "
        f"{seconds:.1f} s; {used:.1f} s of a core, workers included"
    )


if __name__ == "__main__":
    main()
