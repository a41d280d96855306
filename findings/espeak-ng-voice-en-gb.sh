#!/usr/bin/env bash
# espeakng-loader 0.2.4 (espeak-ng 1.52): espeak_SetVoiceByName refuses "en-gb", the language code that its own list of voices
# gives for British English, with status 2 (not found). The voice that was set before stays, so a program that does not look at the
# status goes on in that accent: here "bath" keeps its American vowel. "en" is the name that sets British English.
#
# Seen on 2026-11-29, Python 3.11, Linux x86-64:
#   en-us: status 0, phonemes bˈæθ
#   en-gb: status 2, phonemes bˈæθ
#   en: status 0, phonemes bˈaθ
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet espeakng-loader==0.2.4
"$folder/venv/bin/python" - <<'PYTHON'
import ctypes

import espeakng_loader

library = ctypes.CDLL(espeakng_loader.get_library_path())
library.espeak_TextToPhonemes.restype = ctypes.c_char_p
SYNCHRONOUS, UTF8, IPA = 2, 1, 2
library.espeak_Initialize(SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
seen = []
for voice in ("en-us", "en-gb", "en"):
    status = library.espeak_SetVoiceByName(voice.encode())
    text = ctypes.c_char_p(b"bath")
    phonemes = library.espeak_TextToPhonemes(ctypes.byref(text), UTF8, IPA).decode()
    seen.append((voice, status, phonemes))
    print(f"{voice}: status {status}, phonemes {phonemes}")
expected = [("en-us", 0, "bˈæθ"), ("en-gb", 2, "bˈæθ"), ("en", 0, "bˈaθ")]
raise SystemExit(0 if seen == expected else f"changed: {seen}")
PYTHON
