"""Memory and hours of a run on one accelerator: estimates from the shapes of its networks, and the
assumptions they rest on.

In: networks, audio by source, parameters, a GPU of ``catalogue/gpu.yaml``. Out: peak bytes and
hours, here of the stages that train nothing; ``components.plan.training`` has the one that does. A
forward pass costs 2 operations a parameter and token (Kaplan et al. 2020, arXiv 2001.08361, section
2.1); attention, convolutions and data loading are left out, which the assumed share of the card's
rate has to cover. Cost: microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from components.config import catalogue
from components.config.params import Params
from components.config.schema import STRICT, parse_as
from components.plan.networks import BYTES, Networks
from components.plan.speech import Audio, speech_of

# of the published matrix rate; docs/results/performance.md: 0.19 to 0.56 in features and full
# training batches
SHARE = 0.3
# of the published bandwidth, when one token after another is generated; there 0.02 to 0.13, most of
# it waiting
READING = 0.1
TEXT_TOKENS = 3.7  # a second of speech: LibriSpeech's 2.7 words, 1.35 tokens each
PROMPT_TOKENS = 20
WINDOW = 30.0  # seconds that Whisper's own decoder listens to at once
LONGEST = 2.0  # the longest transcript of a batch, in means
LOGITS = 12  # bytes of a logit in training: its half, fp32 copy and gradient
WAVEFORM = 20e6  # bytes of a second of audio in a convolutional front end of 512 channels, fp32
CONTEXT = 1.0e9  # bytes of an accelerator's own libraries
ASSUMPTIONS = (
    f"{SHARE:.0%} of the matrix rate, and when decoding {READING:.0%} of the bandwidth besides; {TEXT_TOKENS} text tokens a second of "
    f"speech, {PROMPT_TOKENS} of the prompt; full batches of utterances of the mean length; hours of one card; cached frames are read as "
    "fast as they are used"
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
    dtype: str  # of most of it
    computed: dict[str, float]  # operations by dtype
    read: float  # bytes of weights read one token after another
    memory: float  # peak bytes, of one process

    @property
    def operations(self) -> float:
        """In all dtypes."""
        return sum(self.computed.values())

    def hours(self, gpu: Gpu) -> float | None:
        """On one card; None where it does not compute in one of these dtypes."""
        wanted = {dtype: count for dtype, count in self.computed.items() if count}
        if not wanted.keys() <= gpu.rates.keys():
            return None
        busy = sum(count / (gpu.rates[dtype] * 1e12 * SHARE) for dtype, count in wanted.items())
        return (busy + self.read / (gpu.bandwidth * 1e12 * READING)) / 3600


def gpu_of(name: str) -> Gpu:
    """The card of that name; raises InputError with the nearest known name."""
    return parse_as(Gpu, catalogue.raw_entry("gpu", name), f"catalogue/gpu.yaml: {name}")


def together(*counts: tuple[str, float]) -> dict[str, float]:
    """Operations by dtype, those of one dtype added up."""
    found: dict[str, float] = {}
    for dtype, count in counts:
        found[dtype] = found.get(dtype, 0.0) + count
    return found


def computed(nets: Networks, audio: Audio) -> float:
    """Seconds of a source that the encoder computes: whole windows, where it has some."""
    window = nets.encoder.window
    if not window or not audio.utterances:
        return audio.seconds
    return audio.utterances * window * math.ceil(audio.seconds / audio.utterances / window)


def encoding(nets: Networks, seconds: float) -> float:
    """Operations of the encoder for so many seconds."""
    return 2 * nets.encoder.parameters * nets.encoder.tokens * seconds


def encoder_memory(nets: Networks, batch_seconds: float, dtype: str) -> float:
    """Bytes of the encoder's weights and of what it computes for so many seconds at once."""
    weights = nets.encoder.parameters * BYTES[dtype]
    return weights + batch_seconds * (
        WAVEFORM + 16 * nets.encoder.tokens * nets.encoder.width * BYTES[dtype]
    )


def features_load(params: Params, nets: Networks, audio: Sequence[Audio], dtype: str) -> Load:
    """The stage features, cached: every role but noise, in each of its views."""
    seconds = sum(
        computed(nets, each) * speech_of(params.features, each.role)[1]
        for each in audio
        if each.role != "noise"
    )
    memory = encoder_memory(nets, max(params.features.batch_seconds, nets.encoder.window), dtype)
    return Load("features", dtype, {dtype: encoding(nets, seconds)}, 0.0, memory + CONTEXT)


def tokens_of(nets: Networks, speech_seconds: float) -> float:
    """Tokens of the LLM for an utterance of so many seconds: speech as the bridge joins it, prompt,
    transcript and its end.
    """
    return nets.speech_tokens(speech_seconds) + speech_seconds * TEXT_TOKENS + PROMPT_TOKENS + 1


def mean_of(audio: Sequence[Audio], roles: tuple[str, ...]) -> float:
    """Seconds of an utterance of some roles, on average."""
    chosen = [each for each in audio if each.role in roles]
    return (
        sum(each.seconds for each in chosen) / max(1, sum(each.utterances for each in chosen))
        or 1.0
    )


def generated(audio: Audio, utterances: int, batch_seconds: float) -> float:
    """Steps of generation for so many utterances of a source, batch by batch."""
    mean = audio.seconds / max(1, audio.utterances)
    batches = math.ceil(utterances * mean / batch_seconds)
    return batches * (LONGEST * mean * TEXT_TOKENS + 1 if audio.speech else 1)


def decode_load(
    params: Params, nets: Networks, audio: Sequence[Audio], dtype: str, encoder_dtype: str
) -> Load:
    """The stage decode: every constraint set on all that is tested."""
    settings, llm, size = params.decode, nets.llm, BYTES[dtype]
    tested = [each for each in audio if each.role in ("dev", "test", "nonspeech-test")]
    live = params.features.mode == "live"
    operations, read, memory = 0.0, 0.0, 0.0
    longest = max((each.seconds / max(1, each.utterances) for each in tested), default=1.0)
    for rules in settings.sets.values():
        for each in tested:
            mean = each.seconds / max(1, each.utterances)
            operations += (
                2
                * llm.parameters
                * each.utterances
                * (tokens_of(nets, mean) + rules.beams * mean * TEXT_TOKENS)
            )
            read += generated(each, each.utterances, settings.batch_seconds) * llm.parameters * size
        rows = rules.beams * max(1.0, settings.batch_seconds / longest)
        cache = (
            rows
            * (nets.speech_tokens(longest) + PROMPT_TOKENS + rules.max_tokens)
            * llm.layers
            * llm.kv_width
            * size
        )
        memory = max(memory, cache + rows * llm.vocabulary * LOGITS)
    heard_live = sum(encoding(nets, computed(nets, each)) for each in tested) if live else 0.0
    memory += encoder_memory(nets, settings.batch_seconds, encoder_dtype) if live else 0.0
    written, weights = _whisper_alone(nets, tested)
    return Load(
        "decode",
        dtype,
        together((dtype, operations), (encoder_dtype, heard_live), ("float32", written)),
        read + weights,
        memory + llm.parameters * size + _whisper_memory(nets) + CONTEXT,
    )


def _whisper_alone(nets: Networks, tested: Sequence[Audio]) -> tuple[float, float]:
    """Operations, and bytes of weights read, of the decoder of a whole Whisper: window after
    window, greedy, in float32.
    """
    decoder, tokens = (
        nets.encoder.writer,
        TEXT_TOKENS * sum(each.seconds for each in tested if each.speech),
    )
    if not decoder:
        return 0.0, 0.0
    windows = sum(
        each.utterances * math.ceil(each.seconds / max(1, each.utterances) / WINDOW)
        for each in tested
    )
    return encoding(nets, windows * WINDOW) + 2 * decoder * tokens, tokens * decoder * BYTES[
        "float32"
    ]


def _whisper_memory(nets: Networks) -> float:
    """Bytes of a whole Whisper in float32, where its own decoder is heard: it lies
    beside the rest.
    """
    return (
        (nets.encoder.parameters + nets.encoder.writer) * BYTES["float32"]
        if nets.encoder.writer
        else 0.0
    )
