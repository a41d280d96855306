"""Synthesis of non-speech sounds, and of rooms: textbook recipes (filtered noise, damped
resonances, additive tones, sweeps), drawn at random.

In: a random generator and a number of samples at 16 kHz. Out: float64, shape (samples,), at any
level; ``synthesise_clip`` brings one or two of them to a level, as float32. The same generator
gives the same samples. What matters is variety: a recogniser that was trained with hiss alone still
writes words for a clarinet. Cost: about 55 clips of some seconds a second and core.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from components.audio.sound import RATE

Random = np.random.Generator
MAX_PARTIAL_HZ = 7600  # no partial is above it


def synthesise_clip(seed: int, duration_s: float, level_db: float) -> np.ndarray:
    """One clip, float32 at 16 kHz, shape (samples,): one sound, or two in three cases of ten, with
    a random equaliser, at ``level_db`` (root mean square, dB of full scale) over a faint floor.
    """
    random = np.random.default_rng(seed)
    count = int(duration_s * RATE)
    names = random.choice(sorted(SOUNDS), size=2 if random.random() < 0.3 else 1, replace=False)
    sound = sum(_unit(SOUNDS[name](random, count)) * random.uniform(0.3, 1) for name in names)
    sound = _unit(_coloured(random, sound)) * 10 ** (level_db / 20)
    floor = random.standard_normal(count) * 10 ** (random.uniform(-75, -50) / 20)
    clip: np.ndarray = np.clip(sound + floor, -1, 1).astype(np.float32)
    return clip


def synthesise_room(seed: int, duration_s: float, level_db: float) -> np.ndarray:
    """An impulse response of a room, float32 at 16 kHz, shape (samples,): the direct sound, then
    coloured noise that decays by 60 dB until the end, with ``level_db`` times its energy.
    """
    random = np.random.default_rng(seed)
    count = int(duration_s * RATE)
    gap = int(random.uniform(0.001, 0.008) * RATE)  # until the first reflection: 0.3 to 3 m
    decay = 10.0 ** (-3 * np.arange(count) / count)
    reflections = _coloured(random, random.standard_normal(count)) * decay
    reflections[:gap] = 0
    energy = float(np.sum(reflections**2)) + 1e-9
    response: np.ndarray = reflections * np.sqrt(10 ** (level_db / 10) / energy)
    response[0] = 1.0
    scaled: np.ndarray = (response / np.abs(response).max()).astype(np.float32)
    return scaled


def _unit(sound: np.ndarray) -> np.ndarray:
    """The sound at a root mean square of one."""
    output: np.ndarray = sound / (np.sqrt(np.mean(sound**2)) + 1e-9)
    return output


def _time(count: int) -> np.ndarray:
    """The time of each sample in seconds."""
    output: np.ndarray = np.arange(count) / RATE
    return output


def _shaped_noise(
    random: Random, count: int, gain: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """White noise with the spectrum gain(frequency in Hz)."""
    spectrum = np.fft.rfft(random.standard_normal(count))
    output: np.ndarray = np.fft.irfft(spectrum * gain(np.fft.rfftfreq(count, 1 / RATE)), count)
    return output


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
    output: np.ndarray = np.fft.irfft(spectrum, len(sound))
    return output


def _hiss(random: Random, count: int) -> np.ndarray:
    """White to brown noise."""
    slope = random.uniform(0, 2)
    return _shaped_noise(random, count, lambda f: 1 / np.maximum(f, 30) ** (slope / 2))


def _band(random: Random, count: int) -> np.ndarray:
    """Noise around one or two frequencies: wind, steam, a fan."""
    centres, widths = random.uniform(100, 6000, 2), random.uniform(50, 1500, 2)
    has_two_bands = random.random() < 0.5
    return _shaped_noise(
        random,
        count,
        lambda f: (
            np.exp(-(((f - centres[0]) / widths[0]) ** 2))
            + has_two_bands * np.exp(-(((f - centres[1]) / widths[1]) ** 2))
        ),
    )


def _surf(random: Random, count: int) -> np.ndarray:
    """Noise that swells slowly or flutters: waves, applause, a machine's cycle."""
    rate = random.choice([random.uniform(0.1, 1), random.uniform(1, 8), random.uniform(8, 30)])
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * (rate * _time(count) + random.random()))
    output: np.ndarray = _hiss(random, count) * swell ** random.uniform(0.5, 4)
    return output


def _rain(random: Random, count: int) -> np.ndarray:
    """Dense clicks over hiss: rain, fire, frying."""
    drops = (random.random(count) < random.uniform(50, 3000) / RATE) * random.exponential(1, count)
    output: np.ndarray = _unit(
        _ring(random, drops, random.uniform(800, 6000), random.uniform(200, 2000))
    ) + 0.3 * _unit(_hiss(random, count))
    return output


def _ring(random: Random, impulses: np.ndarray, frequency: float, damping: float) -> np.ndarray:
    """Impulses through one damped resonance (frequency in Hz, damping in 1/s)."""
    length = min(len(impulses), int(RATE * min(1.5, 7 / damping)))
    time = _time(length)
    kernel = np.exp(-time * damping) * np.sin(2 * np.pi * frequency * time)
    size = len(impulses) + length
    output: np.ndarray = np.fft.irfft(
        np.fft.rfft(impulses, size) * np.fft.rfft(kernel, size), size
    )[: len(impulses)]
    return output


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
    random: Random, time: np.ndarray, pitch: np.ndarray, slope: float, is_odd: bool
) -> np.ndarray:
    """Partials of a gliding pitch (Hz at each time), falling by ``slope``; odd ones only for a
    clarinet or a square wave.
    """
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    sound = np.zeros(len(time))
    for partial in range(1, 25, 2 if is_odd else 1):
        if partial * pitch.max() > MAX_PARTIAL_HZ:
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
    output: np.ndarray = (_unit(sound) + breath) * attack * decay * release
    return output


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


def _sustained(random: Random, count: int) -> np.ndarray:
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
    is_low = random.random() < 0.3
    while start < count - 200:
        length = min(
            count - start,
            int(RATE * (random.uniform(0.4, 2) if is_low else random.uniform(0.03, 0.4))),
        )
        time = _time(length)
        bounds = random.uniform(80, 900, 2) if is_low else random.uniform(1200, 7000, 2)
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
    output: np.ndarray = np.sin(2 * np.pi * random.uniform(2000, 7000) * time) * pulse * burst
    return output


def _engine(random: Random, count: int) -> np.ndarray:
    """A low buzz whose speed wanders: engines, mains hum, a razor."""
    time = _time(count)
    wander = np.cumsum(random.standard_normal(count)) / RATE * random.uniform(0, 3)
    pitch = random.uniform(20, 220) * (1 + random.uniform(-0.3, 0.3) * time / time[-1]) + wander
    output: np.ndarray = _unit(
        _tone(random, time, np.maximum(pitch, 10), random.uniform(0.2, 1.5), False)
    ) + random.uniform(0, 1) * _unit(_hiss(random, count))
    return output


def _beeps(random: Random, count: int) -> np.ndarray:
    """Square waves in fast steps: games, alarms."""
    time = _time(count)
    steps = random.uniform(200, 2500, random.integers(1, 8))
    pitch = steps[(time * random.uniform(1, 15)).astype(int) % len(steps)]
    gate = (time * random.uniform(0.5, 6)) % 1 < random.uniform(0.3, 1)
    output: np.ndarray = np.sign(np.sin(2 * np.pi * np.cumsum(pitch) / RATE)) * gate
    return output


def _faint(random: Random, count: int) -> np.ndarray:
    """Only a faint floor."""
    output: np.ndarray = _hiss(random, count) * 1e-3
    return output


# The sorted names are a part of the draw and of the scan: a new or renamed one changes all clips.
SOUNDS: dict[str, Callable[[Random, int], np.ndarray]] = {
    "hiss": _hiss,
    "band": _band,
    "surf": _surf,
    "rain": _rain,
    "clatter": _clatter,
    "melody": _melody,
    "held": _sustained,
    "drums": _drums,
    "chirps": _chirps,
    "crickets": _crickets,
    "engine": _engine,
    "beeps": _beeps,
    "quiet": _faint,
}
