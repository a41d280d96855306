"""Recordings → transcripts by a joined model: long ones in segments, segments of several recordings
in one batch.

In: an exported folder or the workspace, and recordings in any number. Out: a transcript each, in
their order, or the reason why there is none. Batches are formed by length among the segments of
``POOL`` batches' audio, whatever recordings they are of; an utterance's text does not hang on its
batch. A segment that is shorter than one frame of the encoder has an empty text. Cost: loading the
model, then encoder and search; memory: the model, one batch, and the audio of a pool.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from components.audio.segments import (
    MAX_SECONDS,
    MIN_SECONDS,
    OVERLAP_SECONDS,
    SegmentWaveform,
    stream_segments,
)
from components.audio.sound import RATE, BrokenSound, resample, stream_blocks
from components.config.errors import InputError
from components.model.encoders.encoder import SpeechEncoder
from components.model.folders.description import has_acoustic_evidence
from components.model.model_folder import CONFIG, read_model_config
from components.model.speech_llm import SpeechLLM
from components.runtime import settings
from components.search.acoustic_evidence import ctc_evidence
from components.search.alignment import Aligner
from components.search.beam import search
from components.shards.order import by_length
from components.transcribe.setup import CTC, Setup, setup_of
from components.transcribe.transcript import Failure, SegmentHypothesis, Transcript, transcript_of

POOL = 8  # batches among whose segments batches are formed


@dataclass(frozen=True)
class Recording:
    """A name, and what gives its waveform (mono float32 at 16 kHz) in blocks; it raises BrokenSound
    where it can't be trusted.
    """

    name: str
    blocks: Callable[[], Iterator[np.ndarray]]


@dataclass
class _Job:
    """A recording on its way."""

    name: str
    samples: int = 0
    open: bool = True  # more segments may come
    waiting: int = 0  # segments in the pool
    heard: list[SegmentHypothesis] = field(default_factory=list)
    failure: str = ""

    def result(self) -> Transcript | Failure:
        if self.failure:
            return Failure(self.name, self.failure)
        return transcript_of(
            self.name, self.samples, sorted(self.heard, key=lambda each: each.segment.start)
        )


class Transcriber:
    """A model that is ready to listen: ``Transcriber.load(folder)``, then a call with a file, its
    bytes or a waveform.
    """

    def __init__(
        self,
        setup: Setup,
        device: str,
        constraints: str = "",
        most: float = MAX_SECONDS,
        batch_seconds: float = 0,
    ) -> None:
        self.system = constraints or setup.usual()
        self.constraints = setup.constraints(self.system)
        if self.constraints and not has_acoustic_evidence(
            setup.encoder, setup.hearing.layer, setup.bridge
        ):
            self.constraints = self.constraints.without_acoustic_limits()
        self.hearing, self.most = setup.hearing, most
        self.batch_seconds = batch_seconds or setup.decode.batch_seconds
        if not (4 * OVERLAP_SECONDS <= most < float("inf") and self.batch_seconds > 0):
            raise InputError(
                f"Segments of {most:g} s in batches of {self.batch_seconds:g} s can't be made.",
                subject="segment-seconds",
                hint=f"Segments have at least {4 * OVERLAP_SECONDS:g} s.",
            )
        if not (setup.bridge / CONFIG).is_file():
            raise InputError(
                f"{setup.bridge} holds no model.",
                subject=str(setup.bridge),
                hint="Run 'dvc repro'.",
            )
        tuned = read_model_config(setup.bridge).encoder_run is not None
        self.units = setup.ctc
        if self.constraints is None and not self.units:
            raise InputError(
                f"{setup.encoder} has no CTC head that the model's layer serves.",
                subject=CTC,
                hint="Name a constraint set.",
            )
        # The encoder's own text needs no LLM, unless the encoder was tuned and lies with the rest.
        model = (
            SpeechLLM.load(setup.bridge, setup.encoder, setup.llm, device)
            if tuned or self.constraints
            else None
        )
        numerics = self.hearing.numerics
        own = model.encoder if model is not None else None
        self.model = model
        self.encoder = own or SpeechEncoder(
            setup.encoder, device, numerics.dtype, self.hearing.layer, numerics.padding
        )
        self.aligner = Aligner(self.encoder) if self.units else None

    @classmethod
    def load(
        cls,
        folder: str | Path | None = None,
        device: str = "",
        constraints: str = "",
        most: float = MAX_SECONDS,
        batch_seconds: float = 0,
    ) -> Transcriber:
        """The model of an exported folder; of the workspace that is the current folder, where none
        is given.

        ``device`` is torch's name of one (default: that of the runtime settings), ``constraints`` a
        constraint set of the model, or ``ctc`` for the encoder's own text, ``most`` the seconds of
        a segment. Raises InputError where the model is not whole, and for an unknown set;
        TransientError where a base has to be fetched and the network fails.
        """
        return cls(
            setup_of(Path(folder) if folder is not None else None),
            device or settings.device(),
            constraints,
            most,
            batch_seconds,
        )

    def __call__(self, sound: str | Path | bytes | np.ndarray, rate: int = RATE) -> Transcript:
        """The transcript of a file (anything that libsndfile reads), of the bytes of one, or of a
        waveform: mono samples at ``rate`` Hz, shape (samples,), floats in [-1, 1]. Raises
        InputError with the reason where it gives no trustworthy sound.
        """
        result = next(self.stream([recording_of(sound, rate)]))
        if isinstance(result, Failure):
            raise InputError(f"{result.name}: {result.reason}.", subject=result.name)
        return result

    def stream(
        self, recordings: Iterable[Recording], told: Callable[[float], None] = lambda seconds: None
    ) -> Iterator[Transcript | Failure]:
        """A transcript or failure for each recording, in their order, as soon as it and all before
        it are done.

        ``told`` is called with seconds of audio as they are done with.
        """
        jobs: deque[_Job] = deque()
        pool: list[tuple[_Job, SegmentWaveform]] = []
        pooled = 0.0
        for recording in recordings:
            job = _Job(recording.name)
            jobs.append(job)
            try:
                for piece in stream_segments(
                    _counted(recording.blocks(), job), self.most, MIN_SECONDS, OVERLAP_SECONDS
                ):
                    job.waiting += 1
                    pool.append((job, piece))
                    pooled += piece.segment.seconds
                    if pooled >= POOL * self.batch_seconds:
                        self._listen(pool, told)
                        pooled = 0.0
                        yield from _done(jobs)
            except BrokenSound as error:
                job.failure = str(error)
            job.open = False
            yield from _done(jobs)
        self._listen(pool, told)
        yield from _done(jobs)

    def _listen(
        self, pool: list[tuple[_Job, SegmentWaveform]], told: Callable[[float], None]
    ) -> None:
        """Hears all pieces of the pool and empties it."""
        kept = [(job, piece) for job, piece in pool if not job.failure]
        seconds = [self.encoder.padded_seconds(len(piece.samples)) for _, piece in kept]
        for batch in by_length(kept, seconds, self.batch_seconds):
            found = self._heard([piece for _, piece in batch])
            for (job, piece), each in zip(batch, found, strict=True):
                if isinstance(each, SegmentHypothesis):
                    job.heard.append(each)
                else:
                    job.failure = f"{piece.segment.start / RATE:.1f} s: {each}"
            told(sum(piece.segment.seconds for _, piece in batch))
        for job, _ in pool:
            job.waiting -= 1
        pool.clear()

    @torch.inference_mode()
    def _heard(self, batch: Sequence[SegmentWaveform]) -> list[SegmentHypothesis | str]:
        """What is heard of each piece, or why nothing can be."""
        made: list[SegmentHypothesis | str] = [
            SegmentHypothesis(piece.segment, "", 0.0, [] if self.units else None) for piece in batch
        ]
        long = [
            place
            for place, piece in enumerate(batch)
            if self.encoder.frames_of(len(piece.samples)) > 0
        ]
        frames = dict(
            zip(long, self._frames([batch[place].samples for place in long]), strict=True)
        )
        for place in long:
            largest = float(frames[place].abs().max())
            if not largest <= (
                self.hearing.numerics.max_abs if self.hearing.mode == "cached" else float("inf")
            ):
                made[place] = f"a value of the encoder's frames is {largest:g}"
                del frames[place]
        whole = list(frames)
        for place, (text, score) in zip(
            whole,
            self._texts([batch[place] for place in whole], list(frames.values())),
            strict=True,
        ):
            words = self.aligner(frames[place], text) if self.aligner is not None else None
            made[place] = SegmentHypothesis(batch[place].segment, text, score, words)
        return made

    def _frames(self, waveforms: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Frames of each waveform, shape (frames, width), float32; rounded as the stage
        ``features`` stores them, where it does.
        """
        groups: dict[int, list[int]] = {}
        for place, waveform in enumerate(waveforms):
            groups.setdefault(
                len(waveform) if self.hearing.numerics.batching == "equal-length" else 0, []
            ).append(place)
        found: dict[int, torch.Tensor] = {}
        for places in groups.values():
            found |= zip(places, self.encoder([waveforms[place] for place in places]), strict=True)
        stored = (
            torch.float16
            if (self.hearing.mode, self.hearing.numerics.features) == ("cached", "float16")
            else torch.float32
        )
        return [found[place].float().to(stored).float() for place in range(len(waveforms))]

    def _texts(
        self, batch: Sequence[SegmentWaveform], frames: Sequence[torch.Tensor]
    ) -> list[tuple[str, float]]:
        """(text, log-probability) of each piece."""
        if not batch:
            return []
        if self.constraints is None or self.model is None:
            return [(text, float("nan")) for text in self.encoder.ctc_text(frames)]
        seconds = [piece.segment.seconds for piece in batch]
        asks = self.units and self.constraints.needs_acoustic_evidence
        evidence = ctc_evidence(self.encoder, frames, self.model.builder.text) if asks else None
        return [
            (each.text, each.score)
            for each in search(self.model, frames, seconds, self.constraints, evidence)
        ]


def recording_of(sound: str | Path | bytes | np.ndarray, rate: int = RATE) -> Recording:
    """What a caller gives as a recording; raises InputError for a waveform of another shape."""
    if isinstance(sound, np.ndarray):
        if sound.ndim != 1 or not np.issubdtype(sound.dtype, np.floating):
            raise InputError(
                f"The waveform has shape {sound.shape} of {sound.dtype}; one of floats, shape "
                "(samples,), is wanted.",
                subject="waveform",
                hint="Average its channels, and divide integers by their full scale.",
            )
        return Recording("waveform", lambda: _checked(sound, rate))
    if isinstance(sound, bytes):
        return Recording("bytes", lambda: stream_blocks(sound))
    path = Path(sound)
    return Recording(os.fspath(sound), lambda: stream_blocks(path))


def _checked(waveform: np.ndarray, rate: int) -> Iterator[np.ndarray]:
    if not len(waveform):
        raise BrokenSound("empty: no samples")
    if not np.isfinite(waveform).all():
        raise BrokenSound("not finite: holds NaN or infinite samples")
    yield resample(waveform.astype(np.float32, copy=False), rate)


def _counted(blocks: Iterator[np.ndarray], job: _Job) -> Iterator[np.ndarray]:
    for block in blocks:
        job.samples += len(block)
        yield block


def _done(jobs: deque[_Job]) -> Iterator[Transcript | Failure]:
    """Results of the first recordings in the queue that nothing more is to come of."""
    while jobs and not jobs[0].open and not jobs[0].waiting:
        yield jobs.popleft().result()
