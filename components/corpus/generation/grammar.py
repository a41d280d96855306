"""Sentences of the embedded corpus: patterns of everyday words, divided so that no sentence is in
two splits.

In: a random generator, a split, a size of vocabulary. Out: a sentence in lower case, without
punctuation. A sentence belongs to train, dev or test by its own digest (8 : 1 : 1), whoever draws
it: sets never share a sentence, whatever their size and seed.
"""

from __future__ import annotations

import re

import numpy as np

from components.config.errors import InputError
from components.runtime.hashing import seed_of

# word class, which a pattern names in braces → its words
WORDS: dict[str, list[str]] = {
    word_class: words.split()
    for word_class, words in {
        "name": (
            "anna peter maria john susan david emma robert laura thomas helen martin julia "
            "oscar nina victor clara henry alice paul"
        ),
        "did": (
            "found lost sold painted carried dropped opened cleaned hid borrowed broke fixed "
            "washed moved watched"
        ),
        "object": (
            "table lamp book basket bottle candle mirror ladder hammer blanket camera guitar "
            "clock umbrella letter picture jacket pillow suitcase telephone button ticket "
            "wallet bicycle"
        ),
        "place": (
            "garden kitchen market station harbour library village museum forest castle school "
            "bakery office river bridge hospital theatre factory airport stable"
        ),
        "animal": (
            "dog cat horse rabbit tiger monkey eagle turtle donkey spider elephant dolphin fox "
            "goose lizard camel"
        ),
        "goes": "walks jumps sleeps hides swims waits runs sings",
        "where": "behind under near inside above beside",
        "food": (
            "bread butter cheese apples oranges carrots noodles pancakes tomatoes mushrooms "
            "honey chicken potatoes soup salad chocolate biscuits rice"
        ),
        "colour": "red blue green yellow purple orange black white brown silver golden pink",
        "quality": (
            "old small heavy broken pretty empty dirty famous gentle lonely quiet strange "
            "simple wooden clever hungry"
        ),
        "digit": "zero one two three four five six seven eight nine",
        "number": (
            "two three four five six seven eight nine ten eleven twelve thirteen fifteen twenty "
            "thirty forty fifty sixty eighty hundred"
        ),
        "hour": "one two three four five six seven eight nine ten eleven twelve",
        "day": "monday tuesday wednesday thursday friday saturday sunday",
        "month": (
            "january february march april may june july august september october november december"
        ),
        "weather": "sunny cloudy windy rainy foggy stormy cold warm",
        "vehicle": "train bus ferry tram taxi boat plane wagon",
        "kin": "mother father sister brother uncle aunt cousin grandmother neighbour teacher",
        "job": "doctor farmer baker driver sailor painter lawyer singer soldier barber",
        "part": "morning evening afternoon night",
        "like": "eats cooks wants likes buys shares",
    }.items()
}

PATTERNS = (
    "{name} {did} the {quality} {object} in the {place}",
    "the {colour} {animal} {goes} {where} the {place}",
    "please bring {number} {food} to the {place} on {day}",
    "my {kin} bought a {colour} {object} for {name}",
    "it will be {weather} and {weather} in {month} near the {place}",
    "the number is {digit} {digit} {digit} {digit} {digit}",
    "we took the {vehicle} from the {place} to the {place}",
    "can you see the {quality} {animal} {where} the {object}",
    "{name} {like} {food} with {food} every {day}",
    "at {hour} in the {part} the {job} opens the {place}",
    "there are {number} {quality} people in the {vehicle} today",
    "do not put the {colour} {object} {where} the {object}",
    "the {job} and the {kin} never {did} a {animal}",
    "{name} was born on {day} the {hour} of {month}",
)
# The texts of a source of kind spoken: sentences, or strings of one to seven digits.
TEXTS: dict[str, tuple[str, ...]] = {
    "sentences": PATTERNS,
    "digits": tuple(" ".join(["{digit}"] * words) for words in range(1, 8)),
}
# Of a sentence, before the split counts as empty: one in ten is of dev or test; milliseconds.
MAX_DRAWS = 1000
SPLITS = {0: "test", 1: "dev"}  # by the digest modulo ten; all other remainders are train


def split_of(sentence: str) -> str:
    """The split to which a sentence belongs."""
    return SPLITS.get(seed_of("sentence", sentence) % 10, "train")


def draw_sentence(
    random: np.random.Generator, split: str, words_per_class: int, texts: str = "sentences"
) -> str:
    """A sentence of ``split`` with the first ``words_per_class`` words of each class (0: all), by
    the patterns ``texts`` (a key of ``TEXTS``).

    Raises InputError if so few words give no sentence of the split.
    """
    patterns = TEXTS[texts]
    for _ in range(MAX_DRAWS):
        pattern = patterns[random.integers(len(patterns))]
        sentence = re.sub(
            r"{(\w+)}", lambda match: _draw_word(random, match[1], words_per_class), pattern
        )
        if split_of(sentence) == split:
            return sentence
    raise InputError(
        f"{words_per_class} words a class give no sentence of split '{split}'.",
        subject="words_per_class",
        hint="Raise words_per_class.",
    )


def _draw_word(random: np.random.Generator, word_class: str, words_per_class: int) -> str:
    words = WORDS[word_class][: words_per_class or None]
    return words[random.integers(len(words))]
