"""Recordings to transcribe: a file, the bytes of one, or a waveform, read in blocks.

In: a path, bytes or samples. Out: a ``Recording`` whose blocks are mono float32 at 16 kHz. Cost:
none until the blocks are read; then decoding and resampling, in the memory of a block.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.audio.sound import RATE, BrokenSound, resample, stream_blocks
from components.config.errors import InputError


@dataclass(frozen=True)
class Recording:
    """A name, and what opens its waveform: mono float32 at 16 kHz in blocks of shape (samples,).
    Reading a block raises BrokenSound if the recording is broken.
    """

    name: str
    blocks: Callable[[], Iterator[np.ndarray]]


def open_recording(sound: str | Path | bytes | np.ndarray, rate: int = RATE) -> Recording:
    """The recording of a file, of the bytes of one, or of a waveform, mono floats of shape
    (samples,) at ``rate`` Hz; raises InputError for a waveform of another shape or type.
    """
    if isinstance(sound, np.ndarray):
        if sound.ndim != 1 or not np.issubdtype(sound.dtype, np.floating):
            raise InputError(
                f"The waveform has shape {sound.shape} of {sound.dtype}, not floats of shape "
                "(samples,).",
                subject="waveform",
                hint="Average its channels, and divide integers by their full scale.",
            )
        return Recording("waveform", lambda: _waveform_blocks(sound, rate))
    if isinstance(sound, bytes):
        return Recording("bytes", lambda: stream_blocks(sound))
    path = Path(sound)
    return Recording(os.fspath(sound), lambda: stream_blocks(path))


def _waveform_blocks(waveform: np.ndarray, rate: int) -> Iterator[np.ndarray]:
    if not len(waveform):
        raise BrokenSound("empty: no samples")
    if not np.isfinite(waveform).all():
        raise BrokenSound("not finite: has NaN or infinite samples")
    yield resample(waveform.astype(np.float32, copy=False), rate)
