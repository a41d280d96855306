"""Recordings → transcripts by a trained model: long recordings in segments, segments of several
recordings in one batch.

In: an exported folder or the workspace, and any number of recordings. Out: a transcript for each,
in their order, or the reason why there is none. Batches are formed by length among the segments of
``POOL_BATCHES`` batches' audio, over all recordings; the text of a segment does not depend on its
batch. A segment shorter than one frame of the encoder has an empty text. Cost: loading the model,
then encoder and search; memory: the model, one batch, and the audio of a pool.
"""

from __future__ import annotations

import math
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
from components.audio.sound import RATE, BrokenSound
from components.config.errors import InputError
from components.decode.decoder import Decoder
from components.decode.run import enforceable_sets
from components.features.encoding import encode, is_storable, largest_magnitude, to_stored_dtype
from components.model.folders.description import has_acoustic_evidence, has_head
from components.model.model_folder import CONFIG
from components.runtime import settings
from components.search.alignment import Aligner
from components.shards.order import batch_by_length
from components.text.hypothesis import CTC, Hypothesis
from components.transcribe.recording import Recording, open_recording
from components.transcribe.setup import Setup, load_setup
from components.transcribe.transcript import Failure, SegmentHypothesis, Transcript, join_segments

POOL_BATCHES = 8  # batches of audio that are collected before batches are formed by length


@dataclass
class _RecordingState:
    """A recording that is being transcribed."""

    name: str
    num_samples: int = 0
    is_open: bool = True  # more segments may follow
    num_pending: int = 0  # segments in the pool
    hypotheses: list[SegmentHypothesis] = field(default_factory=list)
    failure: str = ""

    @property
    def is_done(self) -> bool:
        return not self.is_open and not self.num_pending

    def result(self) -> Transcript | Failure:
        if self.failure:
            return Failure(self.name, self.failure)
        in_order = sorted(self.hypotheses, key=lambda hypothesis: hypothesis.segment.start)
        return join_segments(self.name, self.num_samples, in_order)


class Transcriber:
    """A loaded model: ``Transcriber.load(folder)``, then a call with a file, its bytes or a
    waveform.
    """

    def __init__(
        self,
        setup: Setup,
        device: str,
        constraints: str = "",
        segment_seconds: float = MAX_SECONDS,
        batch_seconds: float = 0,
    ) -> None:
        folders, self.features = setup.folders, setup.features
        self.generated_speech = setup.generated_speech
        self.system = constraints or setup.default_set()
        self.constraints = setup.constraints(self.system)
        if self.constraints:
            encoder, layer = folders.encoder, self.features.layer
            sets = enforceable_sets(
                {self.system: self.constraints},
                has_acoustic_evidence(encoder, layer, folders.bridge, folders.ctc),
                has_ctc=has_head(encoder, layer, folders.ctc),
            )
            self.constraints = sets[self.system]
        self.segment_seconds = segment_seconds
        self.batch_seconds = batch_seconds or setup.decode.batch_seconds
        if not (4 * OVERLAP_SECONDS <= segment_seconds < math.inf and self.batch_seconds > 0):
            raise InputError(
                f"Segments of {segment_seconds:g} s in batches of {self.batch_seconds:g} s are not "
                "possible.",
                subject="segment-seconds",
                hint=f"Segments have at least {4 * OVERLAP_SECONDS:g} s.",
            )
        if not (folders.bridge / CONFIG).is_file():
            raise InputError(
                f"{folders.bridge} contains no model.",
                subject=str(folders.bridge),
                hint="Run 'dvc repro'.",
            )
        self.decoder = Decoder(
            folders, device, self.features.layer, numerics=self.features.numerics
        )
        if self.constraints is None and not self.decoder.has_ctc:
            raise InputError(
                f"{folders.encoder} has no CTC head for the layer of the model's frames, and none "
                "was trained.",
                subject=CTC,
                hint="Name a constraint set.",
            )
        self.decoder.load(with_llm=self.constraints is not None)
        has_llm, has_ctc = self.constraints is not None, self.decoder.has_ctc
        self.encoder = self.decoder.encoder if has_llm else self.decoder.head_encoder
        # Times of the LLM's words come from the frames that its evidence comes from.
        self.head_encoder = self.decoder.evidence_encoder if has_llm else self.encoder
        self.aligner: Aligner | None = None
        if has_ctc:
            head = self.decoder.evidence_head if has_llm else self.decoder.head
            self.aligner = Aligner(head, self.encoder.frame_rate)

    @classmethod
    def load(
        cls,
        folder: str | Path | None = None,
        device: str = "",
        constraints: str = "",
        segment_seconds: float = MAX_SECONDS,
        batch_seconds: float = 0,
    ) -> Transcriber:
        """The model of an exported folder, or of the workspace that is the current folder.

        ``device`` is torch's name of one (default: that of the runtime settings), ``constraints`` a
        constraint set of the model, or ``ctc`` for the text of the CTC head, ``segment_seconds``
        the longest segment, ``batch_seconds`` the audio in a batch (default: as the model says).
        Raises InputError if the model is incomplete and for an unknown set; TransientError if a
        base checkpoint has to be fetched and the network fails.
        """
        return cls(
            load_setup(Path(folder) if folder is not None else None),
            device or settings.device(),
            constraints,
            segment_seconds,
            batch_seconds,
        )

    def __call__(self, sound: str | Path | bytes | np.ndarray, rate: int = RATE) -> Transcript:
        """The transcript of a file (any that libsndfile reads), of the bytes of one, or of a
        waveform: mono samples at ``rate`` Hz, shape (samples,), floats in [-1, 1].

        Raises InputError with the reason if it is broken, empty or not finite.
        """
        result = next(self.stream([open_recording(sound, rate)]))
        if isinstance(result, Failure):
            raise InputError(
                f"{result.name}: {result.reason}.",
                subject=result.name,
                hint="Check the recording, or convert it to FLAC or WAV.",
            )
        return result

    def stream(
        self,
        recordings: Iterable[Recording],
        on_progress: Callable[[float], None] = lambda seconds: None,
    ) -> Iterator[Transcript | Failure]:
        """A transcript or failure for each recording, in their order, as soon as it and all before
        it are done.

        ``on_progress`` is called with the seconds of audio that were transcribed.
        """
        states: deque[_RecordingState] = deque()
        pool: list[tuple[_RecordingState, SegmentWaveform]] = []
        pool_seconds = 0.0
        for recording in recordings:
            state = _RecordingState(recording.name)
            states.append(state)
            try:
                for segment in stream_segments(
                    _counted(recording.blocks(), state),
                    self.segment_seconds,
                    MIN_SECONDS,
                    OVERLAP_SECONDS,
                ):
                    state.num_pending += 1
                    pool.append((state, segment))
                    pool_seconds += segment.segment.seconds
                    if pool_seconds >= POOL_BATCHES * self.batch_seconds:
                        self._transcribe_pool(pool, on_progress)
                        pool_seconds = 0.0
                        yield from _results(states)
            except BrokenSound as error:
                state.failure = str(error)
            state.is_open = False
            yield from _results(states)
        self._transcribe_pool(pool, on_progress)
        yield from _results(states)

    def _transcribe_pool(
        self,
        pool: list[tuple[_RecordingState, SegmentWaveform]],
        on_progress: Callable[[float], None],
    ) -> None:
        """Transcribes all segments of the pool and empties it."""
        pending = [(state, segment) for state, segment in pool if not state.failure]
        seconds = [self.encoder.computed_duration_s(len(segment.samples)) for _, segment in pending]
        for batch in batch_by_length(pending, seconds, self.batch_seconds):
            results = self._transcribe_batch([segment for _, segment in batch])
            for (state, segment), result in zip(batch, results, strict=True):
                if isinstance(result, SegmentHypothesis):
                    state.hypotheses.append(result)
                else:
                    state.failure = f"{segment.segment.start / RATE:.1f} s: {result}"
            on_progress(sum(segment.segment.seconds for _, segment in batch))
        for state, _ in pool:
            state.num_pending -= 1
        pool.clear()

    @torch.inference_mode()
    def _transcribe_batch(self, batch: Sequence[SegmentWaveform]) -> list[SegmentHypothesis | str]:
        """The hypothesis of each segment, or the reason why it has none."""
        results: list[SegmentHypothesis | str] = [
            SegmentHypothesis(
                segment.segment, Hypothesis("", score=0.0), None if self.aligner is None else []
            )
            for segment in batch
        ]
        indices = [
            index
            for index, segment in enumerate(batch)
            if self.encoder.count_frames(len(segment.samples)) > 0
        ]
        frames: dict[int, torch.Tensor] = {}
        encoded = self._encode([batch[index].samples for index in indices])
        for index, segment_frames in zip(indices, encoded, strict=True):
            magnitude = largest_magnitude(segment_frames)
            if self._is_valid(magnitude):
                frames[index] = self._as_decoded(segment_frames)
            else:
                results[index] = f"a value of the encoder's frames is {magnitude:g}"
        if not frames:
            return results
        durations_s = [batch[index].segment.seconds for index in frames]
        head_frames = list(frames.values())
        if self.head_encoder is not self.encoder:
            waveforms = [batch[index].samples for index in frames]
            batching = self.features.numerics.batching
            encoded = encode(self.head_encoder, waveforms, batching)
            head_frames = [self._as_decoded(segment_frames) for segment_frames in encoded]
        hypotheses = self.decoder.decode(
            list(frames.values()), durations_s, self.constraints, head_frames=head_frames
        )
        for index, own_frames, hypothesis in zip(frames, head_frames, hypotheses, strict=True):
            segment, words = batch[index].segment, None
            if self.aligner is not None:
                words = self.aligner(own_frames, hypothesis.text, segment.seconds)
            results[index] = SegmentHypothesis(segment, hypothesis, words)
        return results

    def _encode(self, waveforms: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Frames of each waveform, shape (frames, width), in the encoder's dtype."""
        return encode(self.encoder, waveforms, self.features.numerics.batching)

    def _is_valid(self, magnitude: float) -> bool:
        """Whether frames with this largest absolute value can be decoded: those that the stage
        ``features`` would refuse are refused.
        """
        if self.features.mode == "cached":
            return is_storable(magnitude, self.features.numerics)
        return not math.isnan(magnitude)

    def _as_decoded(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames in float32, shape (frames, width), rounded as the model got them in training."""
        if self.features.mode == "cached":
            return to_stored_dtype(frames, self.features.numerics).float()
        return frames.float()


def _counted(blocks: Iterator[np.ndarray], state: _RecordingState) -> Iterator[np.ndarray]:
    for block in blocks:
        state.num_samples += len(block)
        yield block


def _results(states: deque[_RecordingState]) -> Iterator[Transcript | Failure]:
    """The results of the recordings at the head of the queue that are done."""
    while states and states[0].is_done:
        yield states.popleft().result()
