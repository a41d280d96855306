"""Frames for training and decoding: read from a features folder, or computed from the shards in
mode ``live``.

In: the role, the encoder's folder, the data folder. Out: frames of utterances as tensors on one
device. Cost: a read for each utterance, or the encoder's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from components.audio.augmentation import perturbed_length
from components.audio.sound import RATE
from components.config.augment import Augment
from components.config.entries import EncoderNumerics
from components.config.errors import InputError
from components.config.schema import parse_as
from components.config.training import needs_live_features
from components.features.encoding import check_lengths, encode_utterances
from components.features.key import check_key
from components.features.waveforms import (
    UNAUGMENTED,
    AugmentedView,
    build_augmentation,
    view_folder,
)
from components.model.encoders.encoder import SpeechEncoder
from components.model.encoders.registry import read_traits
from components.shards.reader import IndexedUtterance, list_utterances, read_frames


class FrameSource:
    """The utterances of one role and their frames on ``device``.

    Live frames are computed by ``encoder`` if it is given, else by the one of ``folder``. If the
    role is augmented, an utterance has other frames in each ``epoch`` (cached: in as many as there
    are views); epoch None means as recorded. The entries of ``utterances`` have the length of the
    recording. Raises InputError for an encoder that is given although frames are stored, and for
    one of another layer or padding than the features folder says.
    """

    def __init__(
        self,
        role: str,
        folder: Path,
        device: str,
        data: Path = Path("data"),
        encoder: SpeechEncoder | None = None,
    ) -> None:
        self._features, shards, noise = (
            data / "features" / role,
            data / "shards" / role,
            data / "shards" / "noise",
        )
        record = check_key(self._features, folder, shards, noise)
        key, augment = record["key"], record["parameters"].get("augment")
        self.is_live = "empty" in record
        self.layer: int | str = key["layer"]
        self.utterances: list[IndexedUtterance] = list_utterances(
            shards if self.is_live else self._features
        )
        numerics = parse_as(EncoderNumerics, key["numerics"], f"{self._features}: numerics")
        self.device = device
        self._batch_seconds, self._batching = key["batch_seconds"], numerics.batching
        if encoder is not None:
            self._check(encoder, numerics.padding)
        elif self.is_live:
            encoder = SpeechEncoder.load(folder, device, numerics, self.layer)
        self.encoder = encoder
        self._traits = encoder.traits if encoder else read_traits(folder, numerics.padding)
        self._augment = (
            parse_as(Augment, augment, f"{self._features}: augment") if augment else None
        )
        self._augmentation = (
            build_augmentation(self._augment, noise, lengths_only=not self.is_live)
            if self._augment
            else None
        )
        # the stored view in use, and its utterances by source and id
        self._view: tuple[int, dict[tuple[str, str], IndexedUtterance]] = (0, {})
        if self.encoder and self._augment:  # before the first epoch, not in the one that draws it
            fastest = max(self._augment.speed)
            check_lengths(
                self.encoder,
                [
                    (utterance.id, perturbed_length(utterance.num_samples, fastest))
                    for utterance in self.utterances
                ],
            )

    def _check(self, encoder: SpeechEncoder, padding: str) -> None:
        if not self.is_live:
            message, hint = needs_live_features()
            raise InputError(f"{self._features}: {message}", subject=str(self._features), hint=hint)
        if (encoder.layer, encoder.padding) != (self.layer, padding):
            raise InputError(
                f"{self._features} is of layer {self.layer} and padding '{padding}'; the encoder "
                f"was tuned on layer {encoder.layer} and padding '{encoder.padding}'.",
                subject=str(self._features),
                hint="Run 'dvc repro'.",
            )

    @property
    def max_stretch(self) -> float:
        """The largest factor by which an epoch lengthens an utterance."""
        return 1 / min(self._augment.speed) if self._augment else 1.0

    def duration_s(self, utterance: IndexedUtterance, epoch: int | None = None) -> float:
        """Seconds of an utterance in an epoch; reads nothing."""
        return self._view_of(epoch).num_samples(utterance) / RATE

    def frame_duration_s(self, utterance: IndexedUtterance, epoch: int | None = None) -> float:
        """Seconds that the frames of an utterance last in an epoch, by which batches are formed:
        more than ``duration_s`` where the frames of a filled window are all used.
        """
        if not self._traits.uses_full_window:
            return self.duration_s(utterance, epoch)
        return self.num_frames(utterance, epoch) / self._traits.frame_rate

    def num_frames(self, utterance: IndexedUtterance, epoch: int | None = None) -> int:
        """Number of frames of an utterance in an epoch, without computing any."""
        if self.encoder is None:
            return self._stored(utterance, epoch).entry.frames
        return self.encoder.count_frames(self._view_of(epoch).num_samples(utterance))

    def frames(
        self, utterances: Sequence[IndexedUtterance], epoch: int | None = None
    ) -> list[torch.Tensor]:
        """Frames of each utterance in an epoch, shape (frames, width), float32, in the order of
        ``utterances``; raises InputError for frames as recorded if only augmented ones are stored.
        """
        if self.encoder is None:
            return [
                torch.from_numpy(read_frames(self._stored(utterance, epoch)))
                .float()
                .to(self.device)
                for utterance in utterances
            ]
        encoded = encode_utterances(
            self.encoder, utterances, self._batch_seconds, self._batching, self._view_of(epoch)
        )
        frames = {utterance.id: tensor.float() for utterance, tensor in encoded}
        return [frames[utterance.id].clone() for utterance in utterances]

    def locate(self, utterance: IndexedUtterance, epoch: int | None = None) -> IndexedUtterance:
        """Where the input of an utterance is in an epoch: its stored frames, or its recording."""
        return self._stored(utterance, epoch) if self.encoder is None else utterance

    def _view_of(self, epoch: int | None) -> AugmentedView:
        """How the audio of the role is augmented in an epoch."""
        if self._augmentation is None or self._augment is None or epoch is None:
            return UNAUGMENTED
        view = epoch if self.is_live else epoch % self._augment.views
        return AugmentedView(self._augmentation, view)

    def _stored(self, utterance: IndexedUtterance, epoch: int | None) -> IndexedUtterance:
        """Where the stored frames of an utterance are that an epoch reads."""
        if self._augment is None:
            return utterance
        if epoch is None:
            raise InputError(
                f"{self._features} contains frames of augmented audio only.",
                subject=str(self._features),
                hint="Set features.mode to live, or switch features.augment off.",
            )
        view = epoch % self._augment.views
        if view == 0:
            return utterance
        if self._view[0] != view:
            stored = list_utterances(self._features, view_folder(view))
            self._view = (view, {(entry.source, entry.id): entry for entry in stored})
        return self._view[1][utterance.source, utterance.id]
