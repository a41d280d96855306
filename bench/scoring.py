"""How long scoring takes: ``python -m bench.scoring [--words N] [--systems N] [--speakers N]``.

Generates hypotheses of two sets of speech and one without speech from a seed, runs the work of the
stage ``score`` on them in a temporary folder, and prints seconds of the clock and of the cores; on
a machine that others use the latter say more. References are upper case, hypotheses lower case with
errors in one word of twenty; lengths and number of speakers are those of LibriSpeech's test sets.
It reads only ``params.yaml`` and the catalogue. Cost: a little more than the seconds it prints.
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

COMMON = """
the of and to a in that he was it his is with as i had for at by on not be from but you which or
have her she this all him were they an so there one my when their said been would me who no will
what then some out more up into them could
"""
RARE = """
colour mister doctor can't twenty hundred seven favour honour i'll we're governor travelling grey
saint uh programme machine letter window morning question garden nobody yesterday river silence
manner evening certain among
"""
LENGTHS = (3, 45)  # words of an utterance, least and most
ERRORS = 0.05  # of words
WORDS_PER_SECOND = 2.7
SETS = ("test/test-clean", "test/test-other", "nonspeech-test/synthetic-test")
NONSPEECH_WORDS = 5_000  # of the set without speech


def generate_hypotheses(
    num_words: int, num_systems: int, num_speakers: int, seed: int
) -> list[Hypothesis]:
    """Hypotheses of about so many reference words, for each system."""
    random_state = random.Random(seed)
    rare = RARE.split()
    plurals = [f"{word}{suffix}" for word in rare for suffix in ("s", "ing")]
    vocabulary = [*COMMON.split() * 3, *rare, *plurals]
    references, total = [], 0
    while total < num_words:
        references.append(random_state.choices(vocabulary, k=random_state.randint(*LENGTHS)))
        total += len(references[-1])
    return [
        Hypothesis(
            _corrupt(reference, rare, random_state),
            score=-1.0,
            system=f"system-{system}",
            utterance_id=f"{seed}-{index:06d}",
            speaker=f"speaker-{index % num_speakers}",
            language="en",
            reference=" ".join(reference).upper(),
            duration_s=len(reference) / WORDS_PER_SECOND,
        )
        for system in range(num_systems)
        for index, reference in enumerate(references)
    ]


def _corrupt(reference: Sequence[str], rare: Sequence[str], random_state: random.Random) -> str:
    """The reference with deletions, repetitions and substitutions."""
    words: list[str] = []
    for word in reference:
        chance = random_state.random() / ERRORS
        if chance > 1:
            words.append(word)
        elif 0.3 <= chance < 0.5:
            words += [word, word]
        elif chance >= 0.5:
            words.append(random_state.choice(rare))
    return " ".join(words)


def main() -> None:
    """Measures from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scoring",
        description="Measures the stage score on generated hypotheses.",
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
            start = time.perf_counter()
            for seed, name in enumerate(SETS):
                num_words = options.words // 2 if name.startswith("test/") else NONSPEECH_WORDS
                path = Path("data/decode") / f"{name}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                hypotheses = generate_hypotheses(num_words, options.systems, options.speakers, seed)
                write_hypotheses(path, hypotheses)
            write_record(Path("data/decode"), "decode", parameters={}, inputs={})
            generated, core_seconds = time.perf_counter(), sum(os.times()[:4])
            work(Stage("score", params, ""))
            end, core_seconds = time.perf_counter(), sum(os.times()[:4]) - core_seconds
    print(f"generated the hypotheses in {generated - start:.1f} s")
    print(
        f"scored {options.words:,} reference words, {options.systems} systems, in "
        f"{end - generated:.1f} s; {core_seconds:.1f} s of a core, workers included"
    )


if __name__ == "__main__":
    main()
