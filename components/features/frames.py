"""Frames for training and decoding: read from a features folder, or computed from the shards where the mode is live."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from components.config.artifact import read_record
from components.config.catalogue import EncoderNumerics
from components.config.errors import InputError
from components.config.typed import typed
from components.features.extract import encoded
from components.features.key import check_key
from components.model.encoder import SpeechEncoder
from components.shards.reader import Located, array, entries


class FrameSource:
    """The utterances of one role and their frames on ``device``.

    Live frames are heard with ``encoder`` where it is given, else with the one of ``folder``. Raises InputError for an encoder
    that is given where frames are stored, and for one of another layer or padding than the folder of features says.
    """

    def __init__(self, role: str, folder: Path, device: str, data: Path = Path("data"), encoder: SpeechEncoder | None = None) -> None:
        features, shards = data / "features" / role, data / "shards" / role
        key = check_key(features, folder, shards)["key"]
        self.live = "empty" in read_record(features)
        self.items: list[Located] = entries(shards if self.live else features)
        numerics = typed(EncoderNumerics, key["numerics"], f"{features}: numerics")
        self.device, self._batch_seconds, self._batching = device, key["batch_seconds"], numerics.batching
        if encoder is not None:
            self._check(encoder, features, key["layer"], numerics.padding)
        elif self.live:
            encoder = SpeechEncoder(folder, device, numerics.dtype, key["layer"], numerics.padding)
        self.encoder = encoder

    def _check(self, encoder: SpeechEncoder, features: Path, layer: int | str, padding: str) -> None:
        if not self.live:
            raise InputError(f"{features} holds frames of the encoder as it was; a tuned one gives others.", unit=str(features),
                             way_out="Set features.mode to live.")  # fmt: skip
        if (encoder.layer, encoder.padding) != (layer, padding):
            raise InputError(f"{features} is of layer {layer} and padding '{padding}'; the encoder was tuned on layer {encoder.layer} and "
                             f"padding '{encoder.padding}'.", unit=str(features), way_out="Run 'dvc repro'.")  # fmt: skip

    def count(self, item: Located) -> int:
        """Frames of an utterance, told without computing any."""
        return item.entry.frames if self.encoder is None else self.encoder.frames_of(item.entry.samples)

    def frames(self, items: Sequence[Located]) -> list[torch.Tensor]:
        """Frames of each utterance, shape (frames, width), float32, in the order of ``items``."""
        if self.encoder is None:
            return [torch.from_numpy(array(item)).float().to(self.device) for item in items]
        found = {item.entry.id: frames.float() for item, frames in encoded(self.encoder, list(items), self._batch_seconds, self._batching)}
        return [found[item.entry.id].clone() for item in items]
