"""Frames for training and decoding: read from a features folder, or computed from the shards where the mode is live."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from components.config.artifact import read_record
from components.config.catalogue import EncoderNumerics
from components.config.typed import typed
from components.features.extract import encoded
from components.features.key import check_key
from components.model.encoder import SpeechEncoder
from components.shards.reader import Located, array, entries


class FrameSource:
    """The utterances of one role and their frames on ``device``."""

    def __init__(self, role: str, encoder: Path, device: str, data: Path = Path("data")) -> None:
        features, shards = data / "features" / role, data / "shards" / role
        key = check_key(features, encoder, shards)["key"]
        self.live = "empty" in read_record(features)
        self.items: list[Located] = entries(shards if self.live else features)
        numerics = typed(EncoderNumerics, key["numerics"], f"{features}: numerics")
        self.device, self._batch_seconds, self._batching = device, key["batch_seconds"], numerics.batching
        self._encoder = SpeechEncoder(encoder, device, numerics.dtype, key["layer"], numerics.padding) if self.live else None

    def count(self, item: Located) -> int:
        """Frames of an utterance, told without computing any."""
        return item.entry.frames if self._encoder is None else self._encoder.frames_of(item.entry.samples)

    def frames(self, items: Sequence[Located]) -> list[torch.Tensor]:
        """Frames of each utterance, shape (frames, width), float32, in the order of ``items``."""
        if self._encoder is None:
            return [torch.from_numpy(array(item)).float().to(self.device) for item in items]
        found = {item.entry.id: frames.float() for item, frames in encoded(self._encoder, list(items), self._batch_seconds, self._batching)}
        return [found[item.entry.id].clone() for item in items]
