"""Memory and hours of a run on one accelerator: estimates from the shapes of its networks, and the assumptions they rest on.

In: networks, audio by source, parameters, a GPU of ``catalogue/gpu.yaml``. Out: by stage, peak bytes and hours. A forward pass
costs 2 operations a parameter and token, a backward pass through frozen weights 2 more, through trained ones 4 (Kaplan et al.
2020, arXiv 2001.08361, section 2.1); attention, convolutions and data loading are left out, which the assumed share of the
card's rate has to cover.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from components.config import catalogue
from components.config.params import Params
from components.config.typed import STRICT, typed
from components.plan.networks import BYTES, Networks
from components.plan.speech import Audio, heard

SHARE = 0.4  # of the published matrix rate
READING = 0.7  # of the published memory bandwidth, when one token after another is generated
TEXT_TOKENS = 3.7  # a second of speech: LibriSpeech's 2.7 words, 1.35 tokens each
PROMPT_TOKENS = 20
LONGEST = 2.0  # the longest transcript of a batch, in means
# Values of 16 bits that a layer keeps for the backward pass, a token and unit of width (Korthikanti et al. 2022, arXiv
# 2205.05198, section 4, without what the attention matrix takes: fused kernels never store it). Frozen layers keep less.
KEPT = 17
STATE = 16  # bytes of a trained parameter: fp32 weight, gradient and AdamW's two moments
LOGITS = 12  # bytes of a logit in training: its half, fp32 copy and gradient
WAVEFORM = 20e6  # bytes of a second of audio in a convolutional front end of 512 channels, fp32
CONTEXT = 1.0e9  # bytes of an accelerator's own libraries
ASSUMPTIONS = (
    f"{SHARE:.0%} of the matrix rate, {READING:.0%} of the bandwidth when decoding; {TEXT_TOKENS} text tokens a second of speech, "
    f"{PROMPT_TOKENS} of the prompt; one card; no gradient checkpointing; cached frames are read as fast as they are used"
)


@dataclass(frozen=True)
class Gpu:
    """A card by its data sheet."""

    __pydantic_config__ = STRICT
    memory: float  # GB
    rates: dict[str, float]  # Tflop/s by dtype
    bandwidth: float  # TB/s


@dataclass(frozen=True)
class Load:
    """What a stage computes on an accelerator."""

    stage: str
    dtype: str
    operations: float
    read: float  # bytes of weights read one token after another
    memory: float  # peak bytes

    def hours(self, gpu: Gpu) -> float | None:
        """On one card; None where it does not compute in this dtype."""
        rate = gpu.rates.get(self.dtype)
        if rate is None:
            return None
        return max(self.operations / (rate * 1e12 * SHARE), self.read / (gpu.bandwidth * 1e12 * READING)) / 3600


def gpu_of(name: str) -> Gpu:
    """The card of that name; raises InputError with the nearest known name."""
    return typed(Gpu, catalogue.raw_entry("gpu", name), f"catalogue/gpu.yaml: {name}")


def loads(params: Params, nets: Networks, audio: Sequence[Audio]) -> list[Load]:
    """What the stages compute that use an accelerator."""
    encoder, llm = catalogue.encoder(params.encoder).numerics.dtype, catalogue.llm(params.llm).numerics.dtype
    found = [_features(params, nets, audio, encoder)] if params.features.mode == "cached" else []
    # What is tuned whole is held in fp32.
    encoder, llm = ("float32" if nets.modules[name][0] else dtype for name, dtype in (("encoder", encoder), ("LLM", llm)))
    if catalogue.projector(params.projector).weights is None:
        found.append(_train(params, nets, audio, llm, encoder))
    return [*found, _decode(params, nets, audio, llm, encoder)]


def computed(nets: Networks, audio: Audio) -> float:
    """Seconds of a source that the encoder computes: whole windows, where it has some."""
    window = nets.encoder.window
    if not window or not audio.utterances:
        return audio.seconds
    return audio.utterances * window * math.ceil(audio.seconds / audio.utterances / window)


def _encoding(nets: Networks, seconds: float) -> float:
    """Operations of the encoder for so many seconds."""
    return 2 * nets.encoder.parameters * nets.encoder.tokens * seconds


def _encoder_memory(nets: Networks, batch_seconds: float, dtype: str) -> float:
    weights = nets.encoder.parameters * BYTES[dtype]
    return weights + batch_seconds * (WAVEFORM + 16 * nets.encoder.tokens * nets.encoder.width * BYTES[dtype])


def _features(params: Params, nets: Networks, audio: Sequence[Audio], dtype: str) -> Load:
    seconds = sum(computed(nets, each) * heard(params.features, each.role)[1] for each in audio if each.role != "noise")
    memory = _encoder_memory(nets, max(params.features.batch_seconds, nets.encoder.window), dtype)
    return Load("features", dtype, _encoding(nets, seconds), 0.0, memory + CONTEXT)


def _tokens(nets: Networks, speech_seconds: float) -> float:
    """Tokens of the LLM for an utterance of so many seconds: frames, prompt, transcript and its end."""
    return speech_seconds * (nets.encoder.rate / nets.stride + TEXT_TOKENS) + PROMPT_TOKENS + 1


def _mean(audio: Sequence[Audio], roles: tuple[str, ...]) -> float:
    """Seconds of an utterance of some roles, on average."""
    chosen = [each for each in audio if each.role in roles]
    return sum(each.seconds for each in chosen) / max(1, sum(each.utterances for each in chosen)) or 1.0


def _train(params: Params, nets: Networks, audio: Sequence[Audio], dtype: str, encoder_dtype: str) -> Load:
    settings, llm, live = params.train, nets.llm, params.features.mode == "live"
    seconds = sum(stage.steps for stage in settings.curriculum) * settings.batch_seconds
    mean = _mean(audio, ("train",))
    tokens = seconds / mean * _tokens(nets, mean)
    projector = nets.modules["projector"][0]
    tuned = {part for stage in settings.curriculum for part in stage.tune}
    # A backward pass through trained weights costs twice one through frozen weights.
    operations = tokens * (6 if "llm" in tuned else 4) * llm.parameters + 6 * projector * seconds * nets.encoder.rate / nets.stride
    # Windows that are filled up cost what they would full.
    speech = [each for each in audio if each.role == "train"]
    filled = sum(computed(nets, each) for each in speech) / (sum(each.seconds for each in speech) or 1.0)
    passes = 3 if "encoder" in tuned else 2 if "encoder-lora" in tuned else 1
    operations += passes * _encoding(nets, seconds * filled) if live else 0.0
    # Greedy search on dev at each checkpoint: every token reads the weights once for a batch of utterances.
    checkpoints = sum(math.ceil(stage.steps / settings.selection.every) for stage in settings.curriculum)
    dev = [each for each in audio if each.role == "dev"]
    steps = checkpoints * sum(_steps(nets, params, min(settings.selection.utterances, each.utterances), each) for each in dev)
    part = settings.batch_seconds / settings.micro_batches
    kept = part / mean * _tokens(nets, mean) * llm.layers * llm.width * KEPT * BYTES[dtype]
    logits = part * TEXT_TOKENS * llm.vocabulary * LOGITS
    memory = nets.modules["LLM"][1] * BYTES[dtype] + nets.trained * STATE + kept + logits + CONTEXT
    memory += _encoder_memory(nets, part * filled, encoder_dtype) - nets.modules["encoder"][0] * BYTES["float32"] if live else 0.0
    if passes > 1:  # what its layers keep for the backward pass
        memory += part * filled * nets.encoder.tokens * nets.encoder.width * nets.encoder.layers * KEPT * BYTES[encoder_dtype]
    return Load("train", dtype, operations, steps * llm.parameters * BYTES[dtype], memory)


def _steps(nets: Networks, params: Params, utterances: int, audio: Audio) -> float:
    """Steps of generation for so many utterances of a source, batch by batch."""
    mean = audio.seconds / max(1, audio.utterances)
    batches = math.ceil(utterances * mean / params.decode.batch_seconds)
    return batches * (LONGEST * mean * TEXT_TOKENS + 1 if audio.speech else 1)


def _decode(params: Params, nets: Networks, audio: Sequence[Audio], dtype: str, encoder_dtype: str) -> Load:
    settings, llm, size = params.decode, nets.llm, BYTES[dtype]
    tested = [each for each in audio if each.role in ("dev", "test", "nonspeech-test")]
    live = params.features.mode == "live"
    operations, read, memory = 0.0, 0.0, 0.0
    longest = max((each.seconds / max(1, each.utterances) for each in tested), default=1.0)
    for rules in settings.sets.values():
        for each in tested:
            mean = each.seconds / max(1, each.utterances)
            operations += 2 * llm.parameters * each.utterances * (_tokens(nets, mean) + rules.beams * mean * TEXT_TOKENS)
            read += _steps(nets, params, each.utterances, each) * llm.parameters * size
        rows = rules.beams * max(1.0, settings.batch_seconds / longest)
        cache = rows * (longest * nets.encoder.rate / nets.stride + PROMPT_TOKENS + rules.max_tokens) * llm.layers * llm.kv_width * size
        memory = max(memory, cache + rows * llm.vocabulary * LOGITS)
    operations += sum(_encoding(nets, computed(nets, each)) for each in tested) if live else 0.0
    memory += _encoder_memory(nets, settings.batch_seconds, encoder_dtype) if live else 0.0
    return Load("decode", dtype, operations, read, memory + llm.parameters * size + CONTEXT)
