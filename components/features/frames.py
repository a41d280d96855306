"""Frames for training and decoding: read from a features folder, or computed from the shards where
the mode is live.
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
from components.features.extract import check_lengths, encode_utterances
from components.features.key import check_key
from components.features.waveforms import UNAUGMENTED, AugmentedView, augmentation_of, view_folder
from components.model.encoders.encoder import SpeechEncoder
from components.shards.reader import IndexedUtterance, array, entries


class FrameSource:
    """The utterances of one role and their frames on ``device``.

    Live frames are heard with ``encoder`` where it is given, else with the one of ``folder``. Where
    the role is augmented, an utterance has other frames in each epoch (cached: in as many as there
    are views), told by ``epoch``; None is as recorded. ``items`` have the length of the recording.
    Raises InputError for an encoder that is given where frames are stored, and for one of another
    layer or padding than the folder of features says.
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
        self.live = "empty" in record
        self.items: list[IndexedUtterance] = entries(shards if self.live else self._features)
        numerics = parse_as(EncoderNumerics, key["numerics"], f"{self._features}: numerics")
        self.device, self._batch_seconds, self._batching = (
            device,
            key["batch_seconds"],
            numerics.batching,
        )
        if encoder is not None:
            self._check(encoder, key["layer"], numerics.padding)
        elif self.live:
            encoder = SpeechEncoder(folder, device, numerics.dtype, key["layer"], numerics.padding)
        self.encoder = encoder
        self._augment = (
            parse_as(Augment, augment, f"{self._features}: augment") if augment else None
        )
        self._augmentation = (
            augmentation_of(self._augment, noise, lengths_only=not self.live)
            if self._augment
            else None
        )
        self._view: tuple[int, dict[tuple[str, str], IndexedUtterance]] = (
            0,
            {},
        )  # the one in use, by source and id
        if self.encoder and self._augment:  # before the first epoch, not in the one that draws it
            fastest = max(self._augment.speed)
            check_lengths(
                self.encoder,
                [
                    (item.entry.id, perturbed_length(item.entry.samples, fastest))
                    for item in self.items
                ],
            )

    def _check(self, encoder: SpeechEncoder, layer: int | str, padding: str) -> None:
        if not self.live:
            message, hint = needs_live_features()
            raise InputError(f"{self._features}: {message}", subject=str(self._features), hint=hint)
        if (encoder.layer, encoder.padding) != (layer, padding):
            raise InputError(
                f"{self._features} is of layer {layer} and padding '{padding}'; the encoder was tuned on layer "
                f"{encoder.layer} and padding '{encoder.padding}'.",
                subject=str(self._features),
                hint="Run 'dvc repro'.",
            )

    @property
    def stretch(self) -> float:
        """By how much an epoch lengthens an utterance at most: seconds of audio a second of the
        recording.
        """
        return 1 / min(self._augment.speed) if self._augment else 1.0

    def seconds(self, item: IndexedUtterance, epoch: int | None = None) -> float:
        """Seconds of an utterance in an epoch; nothing is read."""
        return self._take(epoch).samples(item) / RATE

    def count(self, item: IndexedUtterance, epoch: int | None = None) -> int:
        """Frames of an utterance in an epoch, told without computing any."""
        if self.encoder is None:
            return self._stored(item, epoch).entry.frames
        return self.encoder.frames_of(self._take(epoch).samples(item))

    def frames(
        self, items: Sequence[IndexedUtterance], epoch: int | None = None
    ) -> list[torch.Tensor]:
        """Frames of each utterance in an epoch, shape (frames, width), float32, in the order of
        ``items``; raises InputError for frames as recorded where only augmented ones are stored.
        """
        if self.encoder is None:
            return [
                torch.from_numpy(array(self._stored(item, epoch))).float().to(self.device)
                for item in items
            ]
        heard = encode_utterances(
            self.encoder, list(items), self._batch_seconds, self._batching, self._take(epoch)
        )
        found = {item.entry.id: frames.float() for item, frames in heard}
        return [found[item.entry.id].clone() for item in items]

    def located(self, item: IndexedUtterance, epoch: int | None = None) -> IndexedUtterance:
        """Where lies what is read to hear an utterance in an epoch: its frames, or its
        recording.
        """
        return self._stored(item, epoch) if self.encoder is None else item

    def _take(self, epoch: int | None) -> AugmentedView:
        """How an epoch hears the role."""
        if self._augmentation is None or self._augment is None or epoch is None:
            return UNAUGMENTED
        return AugmentedView(
            self._augmentation, epoch if self.live else epoch % self._augment.views
        )

    def _stored(self, item: IndexedUtterance, epoch: int | None) -> IndexedUtterance:
        """Where the frames of an utterance lie that an epoch reads."""
        if self._augment is None:
            return item
        if epoch is None:
            raise InputError(
                f"{self._features} holds frames of augmented audio alone.",
                subject=str(self._features),
                hint="Set features.mode to live, or switch features.augment off.",
            )
        view = epoch % self._augment.views
        if view == 0:
            return item
        if self._view[0] != view:
            self._view = (
                view,
                {
                    (each.source, each.entry.id): each
                    for each in entries(self._features, view_folder(view))
                },
            )
        return self._view[1][item.source, item.entry.id]
