"""Sound files, whole and broken, that the tests make."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
import soundfile


@cache
def clip(
    rate: int = 16_000,
    channels: int = 1,
    form: str = "FLAC",
    seed: int = 0,
    level: float = 0.1,
    seconds: float = 0.3,
) -> bytes:
    """A whole file of noise (Ogg holds Vorbis)."""
    samples = level * np.random.default_rng(seed).uniform(-1, 1, (int(rate * seconds), channels))
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=form)
    return stream.getvalue()


def not_finite() -> bytes:
    stream = io.BytesIO()
    soundfile.write(
        stream, np.full(4_000, np.nan, np.float32), 16_000, format="WAV", subtype="FLOAT"
    )
    return stream.getvalue()


# What is wrong → (suffix, bytes, the word that the reason starts with), for a source that expects
# mono at 16 kHz.
BROKEN = {
    "text in place of sound": (".flac", b"this is no sound\n" * 50, "unreadable"),
    "no bytes": (".wav", b"", "empty"),
    "a header and no samples": (".wav", clip(form="WAV", seconds=0), "empty"),
    "half a WAV": (".wav", clip(form="WAV")[:5_000], "truncated"),
    "half a FLAC": (".flac", clip()[: len(clip()) // 2], "truncated|unreadable"),
    "the start of a FLAC": (".flac", clip()[:60], "truncated|unreadable|empty"),
    "a wrong rate": (".flac", clip(rate=8_000), "wrong rate"),
    "two channels": (".flac", clip(channels=2), "stereo"),
    "one sample": (".flac", clip(seconds=1 / 16_000), "too short"),
    "less than a frame": (".wav", clip(form="WAV", seconds=0.02), "too short"),
    "silence": (".flac", clip(level=0.0), "silent"),
    "NaN": (".wav", not_finite(), "not finite"),
}


def put(path: Path, data: bytes) -> Path:
    """Writes a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_librispeech(
    root: Path, utterances: dict[str, str | None], subset: str = "train", seed: int = 0
) -> None:
    """A folder in LibriSpeech's layout: text by id, without a transcript line where it is None."""
    lines: dict[Path, list[str]] = {}
    for number, (name, text) in enumerate(utterances.items()):
        speaker, chapter, _ = name.split("-")
        folder = root / subset / speaker / chapter
        put(folder / f"{name}.flac", clip(seed=seed + number))
        transcript = lines.setdefault(folder / f"{speaker}-{chapter}.trans.txt", [])
        if text is not None:
            transcript.append(f"{name} {text}\n")
    for path, text_lines in lines.items():
        path.write_text("".join(text_lines))
