"""Memory and hours of a stage on one accelerator: estimates from the sizes of its networks, and the
assumptions behind them.

In: networks, audio by source, parameters, a GPU of ``catalogue/gpu.yaml``. Out: peak bytes and
hours, here of the stages that train nothing; ``components.plan.training`` has the one that does,
``components.plan.ctc_training`` that of an encoder. A
forward pass costs 2 operations a parameter and token (Kaplan et al. 2020, arXiv 2001.08361, section
2.1). Attention, convolutions and data loading are left out; the assumed share of the card's rate
has to cover them. Cost: microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from components.config import catalogue
from components.config.decoding import ConstraintSet
from components.config.params import Params
from components.config.ranges import PositiveFloat
from components.config.schema import STRICT, Unit, parse_as
from components.plan.networks import BYTES, Networks
from components.plan.sizes import EncoderSize
from components.plan.speech import AudioAmount, augmented_views
from components.search.ctc_beam import JUDGED_UNITS

# Share of the published matrix rate; docs/results/performance.md: 0.19 to 0.56 in features and full
# training batches.
MATRIX_SHARE = 0.3
# Share of the published bandwidth when one token after another is generated;
# docs/results/performance.md: 0.02 to 0.13, most of it waiting.
BANDWIDTH_SHARE = 0.1
# Operations a second of one core in float32, from the seconds of the embedded run in
# docs/results/embedded.md, two processes of one thread: 17 to 46 GFlop/s in features and training.
CORE_RATE = 30e9
CORE_DECODE_RATE = 4e9  # when one token after another is generated: 3 to 6 GFlop/s, mostly overhead
TEXT_TOKENS = 3.7  # a second of speech: LibriSpeech's 2.7 words, 1.35 tokens each
# How often the LLM reads the tokens of a text in rescoring, for each prefix, padding counted: twice
# in part (docs/guide/search.md, ctc_texts). Of 22 s of read English with 32 prefixes: 1.64.
RESCORED_SHARE = 1.64
PROMPT_TOKENS = 20  # of the templates in catalogue/llm.yaml, about
WINDOW_S = 30.0  # that Whisper's decoder takes at once (Radford et al. 2022, arXiv 2212.04356, 2.1)
LONGEST = 2.0  # the longest transcript of a batch, in means; assumed
LOGIT_BYTES = 12  # of a logit in training: half precision, and its gradient; fp32 copy, and its own
# Bytes of a second of audio in a convolutional front end: three times the first layer's output of
# 3,200 frames and 512 channels in fp32 (wav2vec 2.0, arXiv 2006.11477, section 4.2).
FRONT_END_BYTES = 20e6
# Values that a layer holds at once without a backward pass, a token and unit of width: query, key,
# value and output of the attention, the MLP's four before and after its activation, the residuals.
LAYER_VALUES = 16
LIBRARY_BYTES = 1.0e9  # of an accelerator's context and libraries; assumed
TESTED_ROLES = ("dev", "test", "nonspeech-test")
ASSUMPTIONS = (
    f"{MATRIX_SHARE:.0%} of the matrix rate, and when decoding {BANDWIDTH_SHARE:.0%} of the "
    f"bandwidth as well; {TEXT_TOKENS} text tokens a second of speech, {PROMPT_TOKENS} of the "
    "prompt; full batches of utterances of the mean length; hours of one card; cached frames are "
    "read as fast as they are used"
)


@dataclass(frozen=True)
class Gpu:
    """A card by its data sheet: an entry of ``catalogue/gpu.yaml``."""

    __pydantic_config__ = STRICT
    memory: Annotated[PositiveFloat, Unit("10^9 bytes"), Field(description="Size of its memory.")]
    rates: Annotated[
        dict[str, PositiveFloat],
        Unit("Tflop/s"),
        Field(description="Of matrix products, by dtype."),
    ]
    bandwidth: Annotated[PositiveFloat, Unit("TB/s"), Field(description="Of its memory.")]


@dataclass(frozen=True)
class StageLoad:
    """What a stage computes on an accelerator."""

    stage: str
    dtype: str  # of most of it
    operations: dict[str, float]  # by dtype
    weight_bytes: float  # that are read, one token after another
    peak_bytes: float  # of memory, in one process
    generated: float = 0.0  # of the operations: for one token after another
    max_processes: int | None = None  # on one machine; None: as many as workers

    @property
    def total_operations(self) -> float:
        """Operations in all dtypes."""
        return sum(self.operations.values())

    def estimate_hours(self, gpu: Gpu) -> float | None:
        """Hours on one card; None where it does not compute in one of these dtypes."""
        operations = {dtype: count for dtype, count in self.operations.items() if count}
        # Without TF32 a card computes in float32.
        rates = {"tf32": gpu.rates["float32"], **gpu.rates}
        if not operations.keys() <= rates.keys():
            return None
        seconds = sum(
            count / (rates[dtype] * 1e12 * MATRIX_SHARE) for dtype, count in operations.items()
        )
        seconds += self.weight_bytes / (gpu.bandwidth * 1e12 * BANDWIDTH_SHARE)
        return seconds / 3600

    def estimate_core_hours(self) -> float:
        """Hours of one core; larger networks than those of the embedded run take less."""
        in_batches = self.total_operations - self.generated
        return (in_batches / CORE_RATE + self.generated / CORE_DECODE_RATE) / 3600


def read_gpu(name: str) -> Gpu:
    """The card of that name; raises InputError with the nearest known name."""
    return parse_as(Gpu, catalogue.raw_entry("gpu", name), f"catalogue/gpu.yaml: {name}")


def sum_by_dtype(*counts: tuple[str, float]) -> dict[str, float]:
    """Operations by dtype, those of one dtype added up."""
    operations: dict[str, float] = {}
    for dtype, count in counts:
        operations[dtype] = operations.get(dtype, 0.0) + count
    return operations


def encoded_seconds(networks: Networks, amount: AudioAmount) -> float:
    """Seconds of a source that the encoder computes: full windows, where it has some."""
    window_s = networks.encoder.window_s
    if not window_s or not amount.num_utterances:
        return amount.seconds
    return amount.num_utterances * window_s * math.ceil(amount.mean_s / window_s)


def output_seconds(networks: Networks, amount: AudioAmount) -> float:
    """Seconds of a source that have frames: full windows, where their padding has frames too."""
    uses_full_window = networks.encoder.traits.uses_full_window
    return encoded_seconds(networks, amount) if uses_full_window else amount.seconds


def encoder_operations(networks: Networks, seconds: float) -> float:
    """Operations of the encoder for so many seconds of audio."""
    encoder = networks.encoder
    return 2 * encoder.num_parameters * encoder.token_rate * seconds


def frozen_arithmetic(params: Params, dtype: str) -> str:
    """The arithmetic of a frozen encoder whose weights are of ``dtype``."""
    arithmetic: str = catalogue.encoder(params.encoder).numerics.gpu_arithmetic
    return arithmetic if dtype == "float32" else dtype


def encoder_bytes(encoder: EncoderSize, batch_seconds: float, dtype: str) -> float:
    """Bytes of the encoder's weights and of what it computes for so many seconds at once."""
    layer_bytes = LAYER_VALUES * encoder.token_rate * encoder.width * BYTES[dtype]
    weight_bytes = encoder.num_parameters * BYTES[dtype]
    return weight_bytes + batch_seconds * (FRONT_END_BYTES + layer_bytes)


def estimate_features(
    params: Params, networks: Networks, audio: Sequence[AudioAmount], dtype: str
) -> StageLoad:
    """The stage features with frames cached: every role but noise, in each of its views."""
    seconds = sum(
        encoded_seconds(networks, amount) * augmented_views(params.features, amount.role)[1]
        for amount in audio
        if amount.role != "noise"
    )
    batch_seconds = max(params.features.batch_seconds, networks.encoder.window_s)
    peak_bytes = encoder_bytes(networks.encoder, batch_seconds, dtype) + LIBRARY_BYTES
    arithmetic = frozen_arithmetic(params, dtype)
    operations = {arithmetic: encoder_operations(networks, seconds)}
    return StageLoad("features", arithmetic, operations, 0.0, peak_bytes)


def count_tokens(networks: Networks, speech_seconds: float) -> float:
    """Tokens of the LLM for an utterance of so many seconds: speech as the bridge joins it, prompt,
    transcript and its end.
    """
    text = speech_seconds * TEXT_TOKENS
    return networks.prompt_speech_tokens(speech_seconds) + text + PROMPT_TOKENS + 1


def drawn_share(speech: Sequence[AudioAmount], hours: float) -> float:
    """The share of ``speech`` that at most so many hours are (``components.shards.order``)."""
    num_seconds = sum(amount.seconds for amount in speech)
    return min(1.0, 3600 * hours / num_seconds) if num_seconds else 0.0


def mean_seconds(audio: Sequence[AudioAmount], role: str) -> float:
    """Seconds of an utterance of a role, on average; 1 where the role has none."""
    amounts = [amount for amount in audio if amount.role == role]
    num_utterances = max(1, sum(amount.num_utterances for amount in amounts))
    return sum(amount.seconds for amount in amounts) / num_utterances or 1.0


def generation_steps(
    networks: Networks, amount: AudioAmount, num_utterances: int, batch_seconds: float
) -> float:
    """Steps of generation for so many utterances of a source, batch by batch."""
    per_batch = networks.encoder.utterances_per_batch(amount.mean_s, batch_seconds)
    num_batches = math.ceil(num_utterances / per_batch - 1e-9)  # no batch more by rounding
    return num_batches * (LONGEST * amount.mean_s * TEXT_TOKENS + 1 if amount.has_speech else 1)


def estimate_decode(
    params: Params,
    networks: Networks,
    audio: Sequence[AudioAmount],
    dtype: str,
    encoder_dtype: str,
) -> StageLoad:
    """The stage decode: every constraint set on all that is tested."""
    settings, llm, num_bytes = params.decode, networks.llm, BYTES[dtype]
    block_bytes = networks.bridge.block_parameters * BYTES["float32"]
    tested = [amount for amount in audio if amount.role in TESTED_ROLES]
    longest_s = max((amount.mean_s for amount in tested), default=1.0)
    generated, rescored, weight_bytes, peak_bytes = 0.0, 0.0, 0.0, 0.0
    for rules in settings.sets.values():
        for amount in tested:
            if rules.ctc_texts:
                rescored += _rescoring_operations(networks, rules, amount)
                num_passes = _rescoring_passes(amount)
                weight_bytes += num_passes * llm.num_parameters * num_bytes
                continue
            tokens = count_tokens(networks, amount.mean_s)
            tokens += rules.beams * amount.mean_s * TEXT_TOKENS
            generated += 2 * networks.sequence_parameters * amount.num_utterances * tokens
            steps = generation_steps(
                networks, amount, amount.num_utterances, settings.batch_seconds
            )
            weight_bytes += steps * (llm.num_parameters * num_bytes + block_bytes)
        num_rows, row_tokens, row_logits = _search_rows(networks, params, rules, longest_s)
        cache_bytes = num_rows * row_tokens * llm.num_layers * llm.kv_width * num_bytes
        logit_bytes = num_rows * row_logits * llm.vocabulary_size * LOGIT_BYTES
        peak_bytes = max(peak_bytes, cache_bytes + logit_bytes)
    peak_bytes += (
        llm.num_parameters * num_bytes + block_bytes + _whisper_bytes(networks) + LIBRARY_BYTES
    )
    encoding = 0.0
    if params.features.mode == "live":
        seconds = sum(encoded_seconds(networks, amount) for amount in tested)
        encoding = encoder_operations(networks, seconds)
        peak_bytes += encoder_bytes(networks.encoder, settings.batch_seconds, encoder_dtype)
    whisper_operations, whisper_weight_bytes = _estimate_whisper(networks, tested)
    return StageLoad(
        "decode",
        dtype,
        sum_by_dtype(
            (dtype, generated + rescored),
            (frozen_arithmetic(params, encoder_dtype), encoding),
            ("float32", whisper_operations),
        ),
        weight_bytes + whisper_weight_bytes,
        peak_bytes,
        generated,
    )


def _search_rows(
    networks: Networks, params: Params, rules: ConstraintSet, longest_s: float
) -> tuple[float, float, float]:
    """What the LLM has in memory at once: rows, tokens of each, and logits of each."""
    if rules.ctc_texts:  # the texts of one utterance
        text_tokens = LONGEST * longest_s * TEXT_TOKENS
        return rules.ctc_texts, text_tokens, min(text_tokens, LONGEST * JUDGED_UNITS)
    per_batch = networks.encoder.utterances_per_batch(longest_s, params.decode.batch_seconds)
    most_tokens = _most_tokens(rules, LONGEST * longest_s)
    row_tokens = networks.prompt_speech_tokens(longest_s) + PROMPT_TOKENS + most_tokens
    return rules.beams * per_batch, row_tokens, 1


def _rescoring_operations(networks: Networks, rules: ConstraintSet, amount: AudioAmount) -> float:
    """Of the LLM where it chooses among the texts of the CTC head; none for non-speech."""
    if not amount.has_speech:
        return 0.0
    tokens = RESCORED_SHARE * rules.ctc_texts * TEXT_TOKENS * amount.seconds
    return 2 * networks.llm.num_parameters * tokens


def _rescoring_passes(amount: AudioAmount) -> float:
    """Of the LLM: two each time it judges, of the words that all texts share and of the others."""
    if not amount.has_speech:
        return 0.0
    return 2 * (amount.seconds * TEXT_TOKENS / JUDGED_UNITS + amount.num_utterances)


def _most_tokens(rules: ConstraintSet, speech_seconds: float) -> float:
    """The most tokens of a text for so many seconds of speech."""
    if not rules.max_tokens_per_second:
        return rules.max_tokens
    by_seconds = rules.max_tokens_per_second * speech_seconds + rules.extra_tokens
    return min(rules.max_tokens, by_seconds)


def _estimate_whisper(networks: Networks, tested: Sequence[AudioAmount]) -> tuple[float, float]:
    """Operations, and bytes of weights read, of a whole Whisper that transcribes by itself: window
    after window, greedy, in float32.
    """
    num_parameters = networks.encoder.decoder_parameters
    if not num_parameters:
        return 0.0, 0.0
    tokens = TEXT_TOKENS * sum(amount.seconds for amount in tested if amount.has_speech)
    num_windows = sum(
        amount.num_utterances * math.ceil(amount.mean_s / WINDOW_S) for amount in tested
    )
    operations = encoder_operations(networks, num_windows * WINDOW_S) + 2 * num_parameters * tokens
    return operations, tokens * num_parameters * BYTES["float32"]


def _whisper_bytes(networks: Networks) -> float:
    """Bytes of a whole Whisper in float32, where it transcribes by itself; its weights are in
    memory besides those of the LLM.
    """
    encoder = networks.encoder
    if not encoder.decoder_parameters:
        return 0.0
    return (encoder.num_parameters + encoder.decoder_parameters) * BYTES["float32"]
