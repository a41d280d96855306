"""espeak-ng through ctypes: text and voice → samples, or text → phonemes. The espeakng-loader
package brings the library and the voices.

State leaks from one synthesis to the next within a process, so callers synthesise each fixed chunk
of texts in a new process: then the samples depend on the chunk alone. Cost: about 1,400 s of speech
a second. Constants and calls: espeak-ng's ``speak_lib.h`` (1.52).
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import espeakng_loader
import numpy as np

from components.config.errors import InputError

RATE = 22_050  # Hz, of espeak-ng's own output
# The accents of its English, by their language codes: America, New York, Britain, received
# pronunciation, Lancashire, the West Midlands, Scotland, the Caribbean.
ACCENTS = (
    "en-us",
    "en-us-nyc",
    "en",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-gb-scotland",
    "en-029",
)
_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS
# espeakCHARS_UTF8, without espeakENDPAUSE (0x1000), a quarter of a second of silence an utterance
_UTF8 = 1
TIE = "^"  # between the letters of one phoneme
_IPA_TIED = ord(TIE) << 8 | 0x80 | 0x02  # of espeak_TextToPhonemes: IPA, with a tie
_SPEED, _PITCH, _RANGE = 1, 3, 4  # espeakRATE (words a minute), espeakPITCH, espeakRANGE (0-100)
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def list_variants() -> list[str]:
    """Names of the voice variants in the package, sorted."""
    return sorted(
        path.name for path in (Path(espeakng_loader.get_data_path()) / "voices" / "!v").iterdir()
    )


class Espeak:
    """One initialised library; create one a process and use it for one chunk."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        rate = self._library.espeak_Initialize(
            _SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0
        )
        if rate != RATE:
            raise RuntimeError("espeak-ng did not start at its usual rate")
        self._blocks: list[np.ndarray] = []
        self._callback = _CALLBACK(self._collect)  # an attribute: the library has only its address
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p

    def _collect(self, samples: Any, count: int, _events: Any) -> int:
        if count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(
        self,
        text: str,
        language: str,
        variant: str,
        speed: int,
        pitch: int,
        pitch_range: int,
        seed: int,
    ) -> np.ndarray:
        """Float32 samples in [-1, 1] at 22,050 Hz, shape (samples,).

        ``speed`` is in words a minute, ``pitch`` and ``pitch_range`` are 0 to 100. Raises
        InputError for a voice that the library refuses, RuntimeError if it gives no sound.
        """
        # Breathy voices draw on the C library's rand(), which espeak-ng seeds with the time of day
        # when it starts.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        # The library ignores an unknown variant without an error: the caller checks names against
        # ``list_variants()``.
        voice = f"{language}+{variant}"
        self._set_voice(voice)
        for parameter, value in ((_SPEED, speed), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks.clear()
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
        if not self._blocks:
            raise RuntimeError(f"espeak-ng gave no sound for '{text}' by '{voice}'")
        samples: np.ndarray = np.concatenate(self._blocks).astype(np.float32) / 32768.0
        return samples

    def transcribe_phonemes(self, text: str, language: str) -> str:
        """The phonemes of a text in the International Phonetic Alphabet, those of a diphthong or an
        affricate joined by ``TIE``; of the punctuation nothing is left.
        """
        self._set_voice(language)
        unread = ctypes.c_char_p(text.encode())
        clauses = []
        while unread.value:  # the library reads one clause in each call
            clause = self._library.espeak_TextToPhonemes(ctypes.byref(unread), _UTF8, _IPA_TIED)
            clauses.append((clause or b"").decode().strip())
        return " ".join(clause for clause in clauses if clause)

    def transcribe_sentence(self, text: str, language: str) -> str:
        """The phonemes of a text with its punctuation, which neural synthesisers read as
        prosody.
        """
        clauses = re.findall(r"([^,.;:!?]+)([,.;:!?]?)", text)
        return " ".join(
            self.transcribe_phonemes(words.strip(), language) + mark for words, mark in clauses
        )

    def _set_voice(self, voice: str) -> None:
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise InputError(
                f"espeak-ng refuses the voice '{voice}'.",
                subject=voice,
                hint="Use a language and a variant of the espeakng-loader package.",
            )
