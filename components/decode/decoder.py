"""The decoder: one trained model in memory, and what it writes for frames of speech.

In: the folders of a model. Out: hypotheses of each utterance of a batch. The stage ``decode`` and
``transcribe`` use it alike. Each part is loaded when it is first needed and then kept, so the
encoder's own text needs no LLM. Cost: loading, then the search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config.decoding import ConstraintSet
from components.config.entries import EncoderNumerics
from components.model.folders.description import (
    has_head,
    has_trained_head,
    has_untuned_evidence,
    tunes_encoder,
)
from components.model.folders.linked_checkpoint import open_checkpoint
from components.text.hypothesis import Hypothesis

if TYPE_CHECKING:  # the stage starts its workers without torch
    import numpy as np
    import torch

    from components.decode.whisper import WhisperDecoder
    from components.model.encoders.ctc import HeadSource
    from components.model.encoders.encoder import SpeechEncoder
    from components.model.encoders.trained_head import TrainedHead
    from components.model.speech_llm import SpeechLLM


@dataclass(frozen=True)
class ModelFolders:
    """Where the parts of a trained model are; ``ctc`` is that of the stage ``ctc``, and None counts
    as one without a trained head.
    """

    bridge: Path
    encoder: Path
    llm: Path
    ctc: Path | None = None


HEAD = Path("models/ctc")
WORKSPACE = ModelFolders(Path("models/bridge"), Path("models/encoder"), Path("models/llm"), HEAD)


class Decoder:
    """A model on one device.

    ``layer`` is that of the frames. ``numerics`` are those of an encoder that was not tuned, by
    default float32; a tuned one runs as it was tuned. ``llm_dtype`` replaces the dtype that the LLM
    was trained with. Loading raises InputError if encoder or LLM are not those that the bridge was
    trained on.
    """

    def __init__(
        self,
        folders: ModelFolders,
        device: str,
        layer: int | str,
        *,
        numerics: EncoderNumerics | None = None,
        llm_dtype: str | None = None,
    ) -> None:
        self.folders = replace(folders, encoder=open_checkpoint(folders.encoder))
        self.device, self.layer = device, layer
        self.has_ctc = has_head(self.folders.encoder, layer, folders.ctc)
        self._numerics, self._llm_dtype = numerics, llm_dtype

    @cached_property
    def model(self) -> SpeechLLM:
        """Bridge and LLM, with the encoder if it was tuned."""
        from components.model.speech_llm import SpeechLLM

        folders = self.folders
        return SpeechLLM.load(
            folders.bridge, folders.encoder, folders.llm, self.device, self._llm_dtype
        )

    @property
    def tuned_encoder(self) -> SpeechEncoder | None:
        """The encoder of the bridge; None if it was not tuned."""
        return self.model.encoder if tunes_encoder(self.folders.bridge) else None

    @cached_property
    def encoder(self) -> SpeechEncoder:
        """The tuned encoder, else the one of the encoder folder."""
        return self.tuned_encoder or self._untuned_encoder

    @cached_property
    def _untuned_encoder(self) -> SpeechEncoder:
        from components.model.encoders.encoder import SpeechEncoder

        folder, numerics = self.folders.encoder, self._numerics
        if numerics is None:
            return SpeechEncoder(folder, self.device, layer=self.layer)
        return SpeechEncoder.load(folder, self.device, numerics, self.layer)

    @cached_property
    def head_reads_other_frames(self) -> bool:
        """Whether the system ``ctc`` reads other frames than the bridge: a trained head reads those
        of the encoder as it was before the bridge tuned it.
        """
        return has_trained_head(self.folders.ctc) and tunes_encoder(self.folders.bridge)

    @cached_property
    def evidence_reads_other_frames(self) -> bool:
        """Whether acoustic evidence is that of other frames than the bridge reads: of an encoder
        with a head of its own too, where limits were calibrated on the encoder as it came.
        """
        return has_untuned_evidence(self.folders.bridge, self.folders.ctc)

    @cached_property
    def head_encoder(self) -> SpeechEncoder:
        """The encoder whose frames the system ``ctc`` reads."""
        return self._untuned_encoder if self.head_reads_other_frames else self.encoder

    @cached_property
    def evidence_encoder(self) -> SpeechEncoder:
        """The encoder whose frames give the acoustic evidence."""
        return self._untuned_encoder if self.evidence_reads_other_frames else self.encoder

    @cached_property
    def _trained_head(self) -> TrainedHead | None:
        from components.model.encoders.trained_head import TrainedHead

        folder = self.folders.ctc
        if folder is None or not has_trained_head(folder):
            return None
        return TrainedHead.load(folder, self.device)

    @property
    def head(self) -> HeadSource:
        """The CTC head of the system ``ctc``: the encoder's own, or the one that the stage ``ctc``
        trained; raises InputError if there is neither.
        """
        return self._trained_head or self.encoder

    @property
    def evidence_head(self) -> HeadSource:
        """The CTC head of the acoustic evidence; raises InputError if there is none."""
        return self._trained_head or self.evidence_encoder

    def load(self, *, with_llm: bool) -> None:
        """Loads now what a transcription needs: with bridge and LLM, or the CTC head alone; raises
        InputError if they do not belong together.
        """
        _ = (self.model, self.encoder) if with_llm else (self.head_encoder, self.head)

    @cached_property
    def _whisper(self) -> WhisperDecoder:
        from components.decode.whisper import WhisperDecoder

        return WhisperDecoder(self.folders.encoder, self.device)

    @cached_property
    def _base_llm(self) -> tuple[Any, Any, int | None]:
        """The LLM before training, the builder of its prompts, and the id of its BOS token."""
        from components.model.llms.causal import load_llm
        from components.model.llms.prompt import PromptBuilder
        from components.model.model_folder import read_model_config

        config = read_model_config(self.folders.bridge)
        llm, tokenizer = load_llm(open_checkpoint(self.folders.llm), config.llm_dtype, self.device)
        builder = PromptBuilder(tokenizer, config.prompt, config.text_case)
        return llm, builder, tokenizer.bos_token_id

    def decode(
        self,
        frames: Sequence[torch.Tensor],
        durations_s: Sequence[float],
        constraints: ConstraintSet | None,
        utterance_ids: Sequence[str] = (),
        head_frames: Sequence[torch.Tensor] | None = None,
    ) -> list[Hypothesis]:
        """The hypothesis of each utterance from its frames, each (frames, encoder width);
        ``utterance_ids`` are for a prompt that is drawn by them. ``head_frames`` are those that the
        CTC head or the evidence reads, where they are others.

        ``constraints`` is None for the text of the CTC head; raises InputError if there is none.
        """
        from components.model.encoders.ctc import CtcHead
        from components.search.acoustic_evidence import ctc_evidence
        from components.search.beam import search

        head_frames = frames if head_frames is None else head_frames
        if constraints is None:
            return [Hypothesis(text) for text in CtcHead(self.head).decode(head_frames)]
        needs_ctc = self.has_ctc and constraints.needs_acoustic_evidence
        evidence = (
            ctc_evidence(self.evidence_head, head_frames, self.model.builder.decode)
            if needs_ctc
            else None
        )
        return search(
            self.model, frames, durations_s, constraints, evidence, utterance_ids=utterance_ids
        )

    def decode_by_whisper(self, waveforms: Sequence[np.ndarray]) -> list[Hypothesis]:
        """What Whisper's own decoder writes for each waveform, mono float32 at 16 kHz; raises
        InputError if the encoder folder is no complete Whisper.
        """
        return [Hypothesis(text) for text in self._whisper(waveforms)]

    def score_references(self, references: Sequence[str]) -> list[Hypothesis]:
        """The log-probability of each reference under the LLM before training, without speech; the
        text is empty.
        """
        from components.model.llms.causal import score_text

        llm, builder, bos = self._base_llm
        token_ids = [builder.encode(reference) for reference in references]
        return [Hypothesis("", ids, score_text(llm, bos, ids)) for ids in token_ids]
