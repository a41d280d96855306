#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2): a file "._talk.mp3" beside talk.mp3, as macOS leaves on disks and servers without resource
# forks, makes the MP3 unreadable ("bad resource fork"), whatever is in it. WAV, FLAC and Ogg are read as before. An MP3 that is read
# from memory has no name, and libsndfile then looks for "._" in the current folder ("bad data offset"); writing a Sound Designer II
# file into memory creates that file there, beside the bytes that it returns.
#
# Seen on 2026-12-01, Python 3.11, Linux x86-64:
#   MP3: 16000 samples; beside its fork: bad resource fork; from memory beside ._: bad data offset
#   WAV, FLAC, OGG: 16000 samples three times
#   SD2 into memory: the folder has a file ._ afterwards
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet soundfile==0.14.0 numpy==2.4.6
mkdir "$folder/sounds"
cd "$folder/sounds"
"$folder/venv/bin/python" - <<'PYTHON'
import io
import os

import numpy
import soundfile

tone = 0.1 * numpy.sin(numpy.arange(16_000) / 5)
seen = {}


def read(source):
    try:
        return len(soundfile.read(source)[0])
    except soundfile.LibsndfileError as error:
        return error.error_string.strip(".").removeprefix("Error : ")


for form in ("MP3", "WAV", "FLAC", "OGG"):
    name = f"talk.{form.lower()}"
    soundfile.write(name, tone, 16_000, format=form)
    alone = read(name)
    for fork in (f"._{name}", "._"):
        open(fork, "wb").close()
    with open(name, "rb") as file:
        seen[form] = (alone, read(name), read(io.BytesIO(file.read())))
    for fork in (f"._{name}", "._"):
        os.remove(fork)
    print(form, *seen[form], sep=", ")
soundfile.write(io.BytesIO(), tone, 16_000, format="SD2", subtype="PCM_16")
seen["SD2"] = os.path.exists("._")
print("SD2 into memory leaves ._:", seen["SD2"])
expected = {form: (16_000,) * 3 for form in ("WAV", "FLAC", "OGG")}
expected |= {"MP3": (16_000, "bad resource fork", "bad data offset"), "SD2": True}
raise SystemExit(0 if seen == expected else f"changed: {seen}")
PYTHON
