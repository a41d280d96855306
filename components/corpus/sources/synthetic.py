"""Synthetic non-speech: noises, struck and blown tones, chirps, engines, clicks, alone or two at a
time.

Settings → 16 kHz FLAC in the work cache and manifest rows with an empty text, the same bytes on
every run. Each kind is a few lines of textbook synthesis (filtered noise, damped resonances,
additive tones, sweeps); what matters is variety, since a recogniser that has heard only hiss still
writes words onto a clarinet. Cost: about 110 clips a second on two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.audio.sound import RATE
from components.config.catalogue import SPEECH_ROLES
from components.config.errors import InputError
from components.config.schema import STRICT
from components.corpus import RESULT_VERSION
from components.corpus.generation.blocks import (
    generate_blocks,
    list_block_utterances,
    locate_generated,
)
from components.corpus.manifest import Reject
from components.corpus.source import parse_settings
from components.runtime.hashing import data_digest, seed_of
from components.text.utterance import Utterance

Random = np.random.Generator
CHUNK = 100  # clips a process makes; state does not leak here, so this shapes nothing


@dataclass(frozen=True)
class SyntheticSettings:
    """Of a source of kind ``synthetic``; ranges are [lowest, highest]."""

    __pydantic_config__ = STRICT
    kind: str
    clips: int
    seed: int
    seconds: list[float]
    level_db: list[float]  # root mean square of a clip, dB of full scale


@dataclass(frozen=True)
class SyntheticClipPlan:
    id: str
    seed: int
    seconds: float
    level_db: float


class SyntheticSource:
    """A source of kind ``synthetic``."""

    def __init__(self, name: str, role: str, settings: dict[str, Any]) -> None:
        self.name, self.role = name, role
        self.settings = parse_settings(SyntheticSettings, name, role, settings)
        if role in SPEECH_ROLES:
            raise InputError(
                f"source '{name}' holds no speech but stands in the role '{role}'.",
                subject=name,
                hint="Put it into nonspeech-train, nonspeech-test or noise.",
            )

    def scan(self) -> dict[str, Any]:
        return {"made_from": "parameters alone", "digest": data_digest({"kinds": sorted(KINDS)})}

    def estimate_size(self) -> tuple[float, int]:
        return self.settings.clips * float(np.mean(self.settings.seconds)), self.settings.clips

    def list_utterances(self) -> tuple[list[Utterance], list[Reject]]:
        silent = {"split": self.role, "speaker": "", "language": "", "text": ""}
        return list_block_utterances(self._blocks(), lambda name: silent), []

    def locate(self, path: str) -> Path:
        return locate_generated(path, self._blocks, code=__name__)

    def _blocks(self) -> list[Path]:
        settings, plans = self.settings, []
        for number in range(settings.clips):
            random = np.random.default_rng(seed_of("synthetic", settings.seed, number))
            seconds, level = (
                round(float(random.uniform(*bounds)), 3)
                for bounds in (settings.seconds, settings.level_db)
            )
            plans.append(
                SyntheticClipPlan(
                    f"{self.name}-{number:06d}", int(random.integers(2**62)), seconds, level
                )
            )
        key = {"kind": "synthetic", "version": RESULT_VERSION}
        return generate_blocks("corpus", self.name, plans, CHUNK, generate_chunk, key)


def generate_chunk(plans: Sequence[SyntheticClipPlan]) -> list[np.ndarray]:
    """Samples at 16 kHz of each plan."""
    return [clip(plan) for plan in plans]


def clip(plan: SyntheticClipPlan) -> np.ndarray:
    """One clip: one kind of sound, or two in three cases of ten, coloured, at its level over a
    faint floor.
    """
    random = np.random.default_rng(plan.seed)
    count = int(plan.seconds * RATE)
    names = random.choice(sorted(KINDS), size=2 if random.random() < 0.3 else 1, replace=False)
    sound = sum(_unit(KINDS[name](random, count)) * random.uniform(0.3, 1) for name in names)
    sound = _unit(_coloured(random, sound)) * 10 ** (plan.level_db / 20)
    floor = random.standard_normal(count) * 10 ** (random.uniform(-75, -50) / 20)
    return np.clip(sound + floor, -1, 1).astype(np.float32)


def _unit(sound: np.ndarray) -> np.ndarray:
    return sound / (np.sqrt(np.mean(sound**2)) + 1e-9)


def _time(count: int) -> np.ndarray:
    return np.arange(count) / RATE


def _shaped_noise(
    random: Random, count: int, gain: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """White noise with the spectrum gain(frequency in Hz)."""
    spectrum = np.fft.rfft(random.standard_normal(count))
    return np.fft.irfft(spectrum * gain(np.fft.rfftfreq(count, 1 / RATE)), count)


def _coloured(random: Random, sound: np.ndarray) -> np.ndarray:
    """A random smooth equaliser and, in one case of three, a decaying room."""
    frequency = np.fft.rfftfreq(len(sound), 1 / RATE)
    points = np.concatenate(([0.0], np.sort(random.uniform(60, 7500, 4)), [8000.0]))
    curve = 10 ** (np.interp(frequency, points, random.uniform(-12, 6, 6)) / 20)
    spectrum = np.fft.rfft(sound) * curve
    if random.random() < 0.33:
        tail = random.standard_normal(RATE // 2) * np.exp(-_time(RATE // 2) * random.uniform(6, 30))
        tail[0] = random.uniform(2, 8)
        spectrum *= np.fft.rfft(tail, len(sound)) if len(sound) >= len(tail) else 1
    return np.fft.irfft(spectrum, len(sound))


def _hiss(random: Random, count: int) -> np.ndarray:
    """White to brown noise."""
    slope = random.uniform(0, 2)
    return _shaped_noise(random, count, lambda f: 1 / np.maximum(f, 30) ** (slope / 2))


def _band(random: Random, count: int) -> np.ndarray:
    """Noise around one or two frequencies: wind, steam, a fan."""
    centres, widths = random.uniform(100, 6000, 2), random.uniform(50, 1500, 2)
    both = random.random() < 0.5
    return _shaped_noise(
        random,
        count,
        lambda f: (
            np.exp(-(((f - centres[0]) / widths[0]) ** 2))
            + both * np.exp(-(((f - centres[1]) / widths[1]) ** 2))
        ),
    )


def _surf(random: Random, count: int) -> np.ndarray:
    """Noise that swells slowly or flutters: waves, applause, a machine's cycle."""
    rate = random.choice([random.uniform(0.1, 1), random.uniform(1, 8), random.uniform(8, 30)])
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * (rate * _time(count) + random.random()))
    return _hiss(random, count) * swell ** random.uniform(0.5, 4)


def _rain(random: Random, count: int) -> np.ndarray:
    """Dense clicks over hiss: rain, fire, frying."""
    drops = (random.random(count) < random.uniform(50, 3000) / RATE) * random.exponential(1, count)
    return _unit(
        _ring(random, drops, random.uniform(800, 6000), random.uniform(200, 2000))
    ) + 0.3 * _unit(_hiss(random, count))


def _ring(random: Random, impulses: np.ndarray, frequency: float, damping: float) -> np.ndarray:
    """Impulses through one damped resonance (frequency in Hz, damping in 1/s)."""
    length = min(len(impulses), int(RATE * min(1.5, 7 / damping)))
    time = _time(length)
    kernel = np.exp(-time * damping) * np.sin(2 * np.pi * frequency * time)
    size = len(impulses) + length
    return np.fft.irfft(np.fft.rfft(impulses, size) * np.fft.rfft(kernel, size), size)[
        : len(impulses)
    ]


def _clatter(random: Random, count: int) -> np.ndarray:
    """Irregular knocks, each of several resonances: dishes, keys, footsteps."""
    sound = np.zeros(count)
    hits = random.integers(0, count, random.integers(2, 25))
    for _ in range(random.integers(2, 7)):
        impulses = np.zeros(count)
        impulses[hits] = random.exponential(1, len(hits))
        sound += _ring(
            random,
            impulses,
            np.exp(random.uniform(np.log(150), np.log(7000))),
            np.exp(random.uniform(2, 5.5)),
        )
    return sound


def _tone(
    random: Random, time: np.ndarray, pitch: np.ndarray, slope: float, odd: bool
) -> np.ndarray:
    """Partials of a gliding pitch (Hz at each time), falling by ``slope``; odd ones only for a
    clarinet or a square wave.
    """
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    sound = np.zeros(len(time))
    for partial in range(1, 25, 2 if odd else 1):
        if partial * pitch.max() > 7600:
            break
        sound += (
            np.sin(partial * phase + random.uniform(0, 6.28))
            * random.uniform(0.3, 1)
            / partial**slope
        )
    return sound


def _note(random: Random, count: int, frequency: float) -> np.ndarray:
    """One note: plucked, struck, bowed or blown."""
    time = _time(count)
    vibrato = 1 + random.uniform(0, 0.015) * np.sin(
        2 * np.pi * random.uniform(3, 8) * time + random.uniform(0, 6.28)
    )
    sound = _tone(
        random, time, frequency * vibrato, random.uniform(0.3, 2.2), random.random() < 0.3
    )
    attack = np.minimum(1, time / random.uniform(0.003, 0.15))
    decay = np.exp(-time * random.choice([random.uniform(0, 0.5), random.uniform(1, 10)]))
    breath = random.uniform(0, 0.1) * random.standard_normal(count)
    release = np.minimum(1, (time[-1] - time) / 0.02 + 1e-3) if count > 400 else 1
    return (_unit(sound) + breath) * attack * decay * release


def _melody(random: Random, count: int) -> np.ndarray:
    """Notes or chords one after the other in equal temperament."""
    sound, start = np.zeros(count), 0
    base = random.uniform(30, 84)  # MIDI number
    while start < count:
        length = min(count - start, int(RATE * np.exp(random.uniform(np.log(0.08), np.log(2.5)))))
        for _ in range(random.integers(1, 4) if random.random() < 0.4 else 1):
            pitch = 440 * 2 ** ((base + random.integers(-9, 10) - 69) / 12)
            sound[start : start + length] += _note(random, max(length, 2), pitch)[:length]
        start += max(length, 1)
        if random.random() < 0.2:
            start += int(RATE * random.uniform(0, 0.5))
    return sound


def _held(random: Random, count: int) -> np.ndarray:
    """One long note."""
    return _note(random, count, np.exp(random.uniform(np.log(35), np.log(2500))))


def _drums(random: Random, count: int) -> np.ndarray:
    """Falling sweeps and bursts of noise, in a beat or once."""
    sound = np.zeros(count)
    step = int(RATE * random.uniform(0.12, 1.2))
    for start in range(int(random.uniform(0, 0.3) * count), count, step):
        length = min(count - start, int(RATE * random.uniform(0.05, 0.6)))
        time = _time(length)
        sweep = np.sin(
            2
            * np.pi
            * random.uniform(40, 250)
            * (time + random.uniform(0, 0.05) * (1 - np.exp(-time * 30)))
        )
        burst = (
            _shaped_noise(random, length, lambda f: f ** random.uniform(0, 1)) if length > 8 else 0
        )
        mix = random.random()
        sound[start : start + length] += (
            mix * sweep + (1 - mix) * _unit(np.asarray(burst))
        ) * np.exp(-time * random.uniform(6, 60))
        if random.random() < 0.2:
            break
    return sound


def _chirps(random: Random, count: int) -> np.ndarray:
    """Short sweeps: birds, and slower and lower, whales."""
    sound, start = np.zeros(count), int(random.uniform(0, 0.3) * RATE)
    low = random.random() < 0.3
    while start < count - 200:
        length = min(
            count - start,
            int(RATE * (random.uniform(0.4, 2) if low else random.uniform(0.03, 0.4))),
        )
        time = _time(length)
        bounds = random.uniform(80, 900, 2) if low else random.uniform(1200, 7000, 2)
        pitch = np.linspace(bounds[0], bounds[1], length) * (
            1 + random.uniform(0, 0.1) * np.sin(2 * np.pi * random.uniform(5, 60) * time)
        )
        sound[start : start + length] += _tone(random, time, pitch, 2.0, False) * np.hanning(length)
        start += length + int(RATE * np.exp(random.uniform(np.log(0.02), np.log(0.8))))
    return sound


def _crickets(random: Random, count: int) -> np.ndarray:
    """A high tone in pulses, and pulses in bursts."""
    time = _time(count)
    pulse = np.maximum(0, np.sin(2 * np.pi * random.uniform(12, 70) * time))
    burst = np.sin(
        2 * np.pi * random.uniform(0.3, 4) * time + random.uniform(0, 6)
    ) > random.uniform(-1, 0.5)
    return np.sin(2 * np.pi * random.uniform(2000, 7000) * time) * pulse * burst


def _engine(random: Random, count: int) -> np.ndarray:
    """A low buzz whose speed wanders: engines, mains hum, a razor."""
    time = _time(count)
    wander = np.cumsum(random.standard_normal(count)) / RATE * random.uniform(0, 3)
    pitch = random.uniform(20, 220) * (1 + random.uniform(-0.3, 0.3) * time / time[-1]) + wander
    return _unit(
        _tone(random, time, np.maximum(pitch, 10), random.uniform(0.2, 1.5), False)
    ) + random.uniform(0, 1) * _unit(_hiss(random, count))


def _beeps(random: Random, count: int) -> np.ndarray:
    """Square waves in fast steps: games, alarms."""
    time = _time(count)
    steps = random.uniform(200, 2500, random.integers(1, 8))
    pitch = steps[(time * random.uniform(1, 15)).astype(int) % len(steps)]
    gate = (time * random.uniform(0.5, 6)) % 1 < random.uniform(0.3, 1)
    return np.sign(np.sin(2 * np.pi * np.cumsum(pitch) / RATE)) * gate


def _quiet(random: Random, count: int) -> np.ndarray:
    """Nothing but a faint floor."""
    return _hiss(random, count) * 1e-3


KINDS: dict[str, Callable[[Random, int], np.ndarray]] = {
    "hiss": _hiss,
    "band": _band,
    "surf": _surf,
    "rain": _rain,
    "clatter": _clatter,
    "melody": _melody,
    "held": _held,
    "drums": _drums,
    "chirps": _chirps,
    "crickets": _crickets,
    "engine": _engine,
    "beeps": _beeps,
    "quiet": _quiet,
}
