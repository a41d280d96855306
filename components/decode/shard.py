"""One shard under one system → its hypotheses in the work cache: the work of a worker process.

In: a job, plain data. Out: ``hypotheses.parquet``, and beside it how long the search took. Models
and indexes are loaded once in a process. Cost: loading, then the search.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config.decoding import ConstraintSet, Decode
from components.decode.decoder import WORKSPACE, Decoder
from components.decode.hypotheses import write_hypotheses
from components.runtime.json_files import read_json
from components.runtime.settings import device
from components.runtime.unit_cache import cached_unit
from components.shards.order import batch_by_length
from components.shards.reader import (
    IndexedUtterance,
    list_utterances,
    prefetch,
    read_audio,
    read_description,
)
from components.text.hypothesis import CTC, LLM_ONLY, WHISPER, Hypothesis

if TYPE_CHECKING:  # the stage starts its workers without torch
    from components.features.frames import FrameSource

DATA = Path("data")
UNIT, TIMING = "hypotheses.parquet", "throughput.json"


@dataclass(frozen=True, eq=False)
class DecodeJob:
    """One shard under one system."""

    role: str
    source: str
    shard: str  # name of the tar, in data/shards as in data/features
    system: str
    constraints: ConstraintSet | None  # None for CTC, Whisper's own decoder and the LLM alone
    layer: int | str  # of the frames
    settings: Decode
    inputs: str  # digest of models, features and shards
    key: dict[str, Any]


@dataclass
class DecodeTiming:
    """Seconds of audio and of work over the batches after the first, which loads and warms up."""

    batches: int = 0
    audio: float = 0.0
    seconds: float = 0.0

    def add(self, audio_s: float, elapsed_s: float) -> None:
        """Counts one batch."""
        if self.batches:
            self.audio, self.seconds = self.audio + audio_s, self.seconds + elapsed_s
        self.batches += 1


class ShardDecoder:
    """A decoder and the utterances of the roles that it has decoded so far."""

    def __init__(self, decoder: Decoder, data: Path = DATA) -> None:
        self.decoder, self.data = decoder, data
        self._frames: dict[tuple[str, bool], FrameSource] = {}
        self._recordings: dict[str, dict[tuple[str, str], IndexedUtterance]] = {}
        self._languages: dict[tuple[str, str, str], str] = {}  # by role, source and utterance

    def frames(self, role: str, *, untuned: bool = False) -> FrameSource:
        """The frames of a role that the bridge reads, or those of the encoder before the bridge
        tuned it; raises InputError if they are of another encoder or layer.
        """
        from components.features.frames import FrameSource

        decoder = self.decoder
        key = role, untuned
        if key not in self._frames:
            encoder = None if untuned else decoder.tuned_encoder
            self._frames[key] = FrameSource(
                role, decoder.folders.encoder, decoder.device, self.data, encoder
            )
        return self._frames[key]

    def recording(self, role: str, utterance: IndexedUtterance) -> IndexedUtterance:
        """The utterance in the audio shards of its role."""
        if role not in self._recordings:
            self._recordings[role] = {
                (recording.source, recording.id): recording
                for recording in list_utterances(self.data / "shards" / role)
            }
        return self._recordings[role][utterance.source, utterance.id]

    def language(self, role: str, utterance: IndexedUtterance) -> str:
        """The language that the shards of a role record of an utterance; each is read once,
        whatever the number of systems.
        """
        key = role, utterance.source, utterance.id
        if key not in self._languages:
            recording = self.recording(role, utterance)
            self._languages[key] = read_description(recording)["language"]
        return self._languages[key]

    def decode(self, job: DecodeJob, throughput: DecodeTiming) -> list[Hypothesis]:
        """The hypotheses of a job, in the order of its shard."""
        source = self._frames_of(job)
        utterances = [
            utterance
            for utterance in source.utterances
            if utterance.source == job.source and utterance.entry.shard == job.shard
        ]
        prefetch([source.locate(utterance) for utterance in utterances])
        hypotheses: dict[str, Hypothesis] = {}
        reads_frames = job.system not in (LLM_ONLY, WHISPER)
        durations_s = [
            source.frame_duration_s(utterance) if reads_frames else utterance.duration_s
            for utterance in utterances
        ]
        for batch in batch_by_length(utterances, durations_s, job.settings.batch_seconds):
            started = time.perf_counter()
            for utterance, hypothesis in zip(batch, self._decode_batch(job, batch), strict=True):
                hypotheses[utterance.id] = hypothesis
            audio_s = sum(utterance.duration_s for utterance in batch)
            throughput.add(audio_s, time.perf_counter() - started)
        return [
            replace(
                hypotheses[utterance.id],
                system=job.system,
                utterance_id=utterance.id,
                speaker=utterance.speaker,
                language=self.language(job.role, utterance),
                reference=utterance.text,
                duration_s=utterance.duration_s,
            )
            for utterance in utterances
        ]

    def _frames_of(self, job: DecodeJob) -> FrameSource:
        """The frames that the system of a job reads."""
        is_ctc = job.system == CTC
        return self.frames(job.role, untuned=is_ctc and self.decoder.head_reads_other_frames)

    def _decode_batch(self, job: DecodeJob, batch: Sequence[IndexedUtterance]) -> list[Hypothesis]:
        if job.system == LLM_ONLY:
            return self.decoder.score_references([utterance.text for utterance in batch])
        if job.system == WHISPER:
            waveforms = [read_audio(self.recording(job.role, utterance)) for utterance in batch]
            return self.decoder.decode_by_whisper(waveforms)
        durations_s = [utterance.duration_s for utterance in batch]
        head_frames = None
        if (
            job.constraints
            and job.constraints.needs_acoustic_evidence
            and self.decoder.evidence_reads_other_frames
        ):
            head_frames = self.frames(job.role, untuned=True).frames(batch)
        return self.decoder.decode(
            self._frames_of(job).frames(batch),
            durations_s,
            job.constraints,
            [utterance.id for utterance in batch],
            head_frames,
        )


@lru_cache(maxsize=1)
def _shard_decoder(_inputs: str, layer: int | str, exact: bool, device_name: str) -> ShardDecoder:
    """The decoder of this worker process; other ``_inputs`` load another one."""
    llm_dtype = "float32" if exact else None
    return ShardDecoder(Decoder(WORKSPACE, device_name, layer, llm_dtype=llm_dtype))


def decode_shard(job: DecodeJob) -> Path:
    """The finished hypotheses of one shard under one system, in the work cache."""

    def fill(folder: Path) -> None:
        import torch

        torch.set_num_threads(job.settings.threads)
        throughput = DecodeTiming()
        decoder = _shard_decoder(job.inputs, job.layer, job.settings.exact, device())
        write_hypotheses(folder / UNIT, decoder.decode(job, throughput))
        (folder / TIMING).write_text(json.dumps(vars(throughput)))

    return cached_unit("decode", job.key, fill, code=__name__)


def speed_by_system(units: Mapping[DecodeJob, Path]) -> dict[str, float]:
    """Seconds of audio that one worker decodes in a second (RTFx), by system, as measured when the
    units were computed: reading or computing frames, and the search. A system whose shards have one
    batch each has no value.
    """
    sums: dict[str, list[float]] = {}
    for job, unit in units.items():
        throughput = read_json(unit / TIMING, DecodeTiming)
        total = sums.setdefault(job.system, [0.0, 0.0])
        total[0], total[1] = total[0] + throughput.audio, total[1] + throughput.seconds
    return {
        system: round(audio_s / elapsed_s, 1)
        for system, (audio_s, elapsed_s) in sums.items()
        if elapsed_s
    }
