"""Tiny checkpoints with random weights, saved in HF form as the stages ``encoder`` and ``llm``
leave theirs.

The architectures are those of the real families; only the sizes are small. A folder costs
milliseconds.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    HubertConfig,
    HubertForCTC,
    HubertModel,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.models.parakeet.configuration_parakeet import ParakeetCTCConfig
from transformers.models.parakeet.feature_extraction_parakeet import ParakeetFeatureExtractor
from transformers.models.parakeet.modeling_parakeet import ParakeetForCTC
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

from components.config.entries import Prompt
from components.config.projector import CtcCompressor, DiscreteUnits, Linear, Projector
from components.encoder import ctc, folders
from components.encoder.tokenizers import build_character_tokenizer
from components.llm import copying
from components.model.llms.batch import LlmInputs, SpeechOutput, collate, interleave
from components.model.llms.prompt import PromptBuilder
from components.model.matching import MatchingWeights
from components.model.model_folder import ModelConfig, folder_digest
from components.model.speech_llm import SpeechLLM
from components.runtime.artifact import RECORD, empty_folder, read_record, write_record
from components.runtime.hashing import file_digest

torch.set_num_threads(
    1
)  # models this small lose by threads, and results repeat to the bit at one count only

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "juniper"]
TEXTS = [f"{one} {other}" for one in WORDS for other in WORDS]
SUBWORDS = 60  # of a published Parakeet; its blank is the next unit
PROMPT = Prompt("USER: {speech} Transcribe speech to text. ASSISTANT: ")

# Wider random weights than the default: next-token scores that are not flat, as those of a trained
# model are not.
_SPREAD = {"initializer_range": 0.4}
LLMS: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        **_SPREAD,
    },
    "phi": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        **_SPREAD,
    },
    "qwen2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
        **_SPREAD,
    },
    "qwen3": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 24,
        "intermediate_size": 64,
        **_SPREAD,
    },
    "gpt_neox": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        **_SPREAD,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2, **_SPREAD},
}
# Special tokens by the checkpoints that have them so; whatever is not named is not there.
SPECIALS: dict[str, dict[str, Any]] = {
    "qwen": {
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": ["<|im_start|>"],
    },
    "smollm2": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
    "phi": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "llama-3": {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "pad_token": "<|end_of_text|>",
    },
}
FORMS = ("plain", "chat-words", "sentencepiece", *SPECIALS)
LORA = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "phi": ["q_proj", "k_proj", "v_proj", "dense"],
    "qwen2": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "qwen3": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "gpt_neox": ["query_key_value", "dense"],
    "bloom": ["query_key_value", "dense"],
}
BOTH = MatchingWeights(1.0, 1.0)
# The same of the encoders. WavLM's attention reads the weights of its projections without calling
# them.
_ATTENTION = ["q_proj", "k_proj", "v_proj", "out_proj"]
ENCODER_LORA = {
    "parakeet": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "hubert-layer-norm": _ATTENTION,
    "hubert-group-norm": _ATTENTION,
    "wav2vec2-layer-norm": _ATTENTION,
    "wav2vec2-group-norm": _ATTENTION,
    "wavlm-layer-norm": ["intermediate_dense", "output_dense"],
    "wavlm-group-norm": ["intermediate_dense", "output_dense"],
    "whisper": _ATTENTION,
    "ast": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "whisper-ast": [*_ATTENTION, "o_proj"],
}
PARAKEET = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_kernel_size": 9,
    "subsampling_factor": 4,
    "subsampling_conv_channels": 8,
    "num_mel_bins": 40,
    "dropout": 0.0,
    "layerdrop": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
}
HUBERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 64,
    "num_mel_bins": 20,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "init_std": 0.2,
}
# A narrow spectrogram makes few patches; its time axis is that of the real one.
AST = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_mel_bins": 32,
    "initializer_range": 0.2,
}
# Architecture and whether its convolutions are normalised by layer norm; the others by group norm
# over time.
WAVEFORM: dict[str, tuple[Any, Any, bool]] = {
    "hubert-layer-norm": (HubertConfig, HubertForCTC, True),
    "hubert-group-norm": (HubertConfig, HubertModel, False),
    "wav2vec2-layer-norm": (Wav2Vec2Config, Wav2Vec2ForCTC, True),
    "wav2vec2-group-norm": (Wav2Vec2Config, Wav2Vec2ForCTC, False),
    "wavlm-layer-norm": (WavLMConfig, WavLMModel, True),
    "wavlm-group-norm": (WavLMConfig, WavLMModel, False),
}
ENCODERS = ("parakeet", *WAVEFORM, "whisper", "ast", "fbank", "whisper-ast")
WITH_CTC = ("parakeet", "hubert-layer-norm", "wav2vec2-layer-norm", "wav2vec2-group-norm")


def tokenizer(pad: str = copying.PAD, form: str = "plain") -> PreTrainedTokenizerFast:
    """A small byte-level BPE; ``pad`` may be the end of sequence, as in many LLMs. ``form`` says
    whose special tokens it has.
    """
    made = copying.build_tokenizer(TEXTS, 300)
    made.pad_token = pad
    if form == "chat-words":  # as TinyLlama-Chat
        made.add_tokens(["<|im_start|>", "<|im_end|>"])
    elif form != "plain":
        made = PreTrainedTokenizerFast(tokenizer_object=made.backend_tokenizer, **SPECIALS[form])
    return made


def save_tokenizer(
    folder: Path, form: str = "plain", pad: str = copying.PAD
) -> PreTrainedTokenizerFast:
    """Writes a tokenizer's files and gives it back; of a SentencePiece one only size and special
    ids are right.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if form == "sentencepiece":
        pieces = sentencepiece_pieces()
        (folder / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
        (folder / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "LlamaTokenizer", "legacy": false, "pad_token": "<unk>"}'
        )
        made = LlamaTokenizer(vocab={piece: place for place, piece in enumerate(pieces)}, merges=[])
        made.pad_token = "<unk>"
        return made
    made = tokenizer(pad, form)
    made.save_pretrained(folder)
    return made


def sentencepiece_pieces() -> list[str]:
    """Pieces in LLaMA's order: three control tokens, the bytes, what is merged, single
    characters.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=80, show_progress=False))
    learnt = sorted(bpe.get_vocab(), key=bpe.get_vocab().__getitem__)
    merged, single = (
        [each for each in learnt if len(each) > 1],
        [each for each in learnt if len(each) == 1],
    )
    return ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], *merged, *single]


def sentencepiece_model(pieces: list[str], model_type: int = 2, normalizer: bytes = b"") -> bytes:
    """A ``tokenizer.model`` by the message format of SentencePiece; pieces score the lower the
    later they stand.
    """
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3}
    data = b""
    for place, piece in enumerate(pieces):
        text, kind = piece.encode(), kinds.get(piece, 6 if piece.startswith("<0x") else 1)
        inner = (
            b"\x0a"
            + bytes([len(text)])
            + text
            + b"\x15"
            + struct.pack("<f", -place)
            + b"\x18"
            + bytes([kind])
        )
        data += b"\x0a" + bytes([len(inner)]) + inner
    trainer = b"\x18" + bytes([model_type]) + b"\x20\x80\xfa\x01"  # model_type, vocab_size 32,000
    return (
        data
        + b"\x12"
        + bytes([len(trainer)])
        + trainer
        + b"\x1a"
        + bytes([len(normalizer)])
        + normalizer
    )


def save_llm(
    folder: Path,
    family: str = "llama",
    seed: int = 1,
    pad: str = copying.PAD,
    form: str = "plain",
    **config: Any,
) -> Path:
    """A folder that looks like the output of the stage ``llm``."""
    units = save_tokenizer(empty_folder(folder), form, pad)
    model = copying.build_llm(family, {**LLMS[family], **config}, units, seed)
    model.save_pretrained(folder)
    write_record(folder, "llm", parameters=None, inputs={})
    return folder


def save_encoder(folder: Path, family: str = "parakeet", seed: int = 1, **config: Any) -> Path:
    """A folder that looks like the output of the stage ``encoder``; those of WITH_CTC have a CTC
    head.
    """
    _fill(empty_folder(folder), family, seed, config)
    write_record(folder, "encoder", parameters=None, inputs={})
    return folder


def _fill(folder: Path, family: str, seed: int, config: dict[str, Any]) -> None:
    torch.manual_seed(seed)
    if family == "whisper-ast":
        for part, each in (("speech", "whisper"), ("events", "ast")):
            (folder / part).mkdir()
            _fill(folder / part, each, seed, config)
        folders.write_joined(folder, ["speech", "events"])
    elif family == "fbank":
        folders.write_filterbank(folder, {"feature_size": 32, **config})
    elif family == "whisper":
        # As published: encoder and decoder, in the class that they were trained in.
        WhisperForConditionalGeneration(WhisperConfig(**{**WHISPER, **config})).save_pretrained(
            folder
        )
        WhisperFeatureExtractor(feature_size=WHISPER["num_mel_bins"]).save_pretrained(folder)
    elif family == "ast":
        ASTForAudioClassification(ASTConfig(num_labels=3, **{**AST, **config})).save_pretrained(
            folder
        )
        ASTFeatureExtractor(num_mel_bins=AST["num_mel_bins"]).save_pretrained(folder)
    elif family == "parakeet-published":
        _fill_published_parakeet(folder, config)
    else:
        units = build_character_tokenizer(TEXTS, folder)
        if family == "parakeet":
            shape = {**PARAKEET, **config}
            ctc.build_encoder(shape, len(units), seed).save_pretrained(folder)
            ParakeetFeatureExtractor(feature_size=shape["num_mel_bins"]).save_pretrained(folder)
        else:
            settings, network, layer = WAVEFORM[family]
            shape = {
                **HUBERT,
                "feat_extract_norm": "layer" if layer else "group",
                "do_stable_layer_norm": layer,
                **config,
            }
            network(settings(vocab_size=len(units), pad_token_id=0, **shape)).save_pretrained(
                folder
            )
            Wav2Vec2FeatureExtractor(
                do_normalize=True, return_attention_mask=layer
            ).save_pretrained(folder)
        if family in WITH_CTC:
            units.save_pretrained(folder)
        else:
            (folder / "vocab.json").unlink()


def _fill_published_parakeet(folder: Path, config: dict[str, Any]) -> None:
    """As NVIDIA's on the hub: subwords with the blank behind them, frames of 80 ms, a tokenizer of
    the class that transformers had then, dropout that is for training alone.
    """
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=SUBWORDS, special_tokens=["<unk>"], show_progress=False
    )
    bpe.train_from_iterator(TEXTS, trainer)
    bpe.add_special_tokens(["<pad>"])
    units = ParakeetTokenizer(tokenizer_object=bpe, unk_token="<unk>", pad_token="<pad>")
    units.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": "ParakeetTokenizerFast"}
    path.write_text(json.dumps(settings))
    drop = {"layerdrop": 0.1, "dropout": 0.1}
    shape = {**PARAKEET, **drop, "subsampling_factor": 8, "initializer_range": 0.3, **config}
    network = ParakeetCTCConfig(
        vocab_size=SUBWORDS + 1, pad_token_id=SUBWORDS, encoder_config=shape
    )
    ParakeetForCTC(network).save_pretrained(folder)
    ParakeetFeatureExtractor(feature_size=shape["num_mel_bins"]).save_pretrained(folder)


def joined(
    folder: Path,
    family: str = "llama",
    *,
    width: int = 12,
    prompt: Prompt = PROMPT,
    stack: int = 2,
    projector: Projector | None = None,
    **config: Any,
) -> SpeechLLM:
    """A joined model over a fresh LLM in ``folder / "llm"`` and a stand-in for an encoder of
    ``width`` in ``folder / "encoder"``.

    Without ``projector`` it has a linear one whose vectors are long, so that what is heard decides
    what is written.
    """
    from components.model.llms.causal import load_llm

    llm = save_llm(folder / "llm", family, **config)
    encoder = folder / "encoder"
    if isinstance(projector, CtcCompressor):  # which reads the encoder's CTC head
        save_encoder(encoder, hidden_size=width, num_attention_heads=2)
    else:
        (empty_folder(encoder) / "weights").write_text(str(width))
        write_record(encoder, "encoder", parameters=None, inputs={})
    entry = projector or Linear("linear", stack, 24)
    shape = ModelConfig(
        folder_digest(encoder), width, folder_digest(llm), "float32", entry, prompt, "lower"
    )
    torch.manual_seed(7)
    model = SpeechLLM(shape, *load_llm(llm, "float32", "cpu"))
    model.use_ctc_head_of(encoder)
    if isinstance(projector, DiscreteUnits):
        model.projector.set_centroids(torch.randn(projector.units, width))
    if projector is None:
        with torch.no_grad():
            model.projector.linear2.weight *= 6
    return model


def frames_of(lengths: list[int], width: int = 12, seed: int = 0) -> list[torch.Tensor]:
    """Random frames of an encoder, each (frames, width)."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(length, width, generator=random) for length in lengths]


def output_of(
    model: SpeechLLM,
    frames: list[torch.Tensor],
    texts: list[str],
    matching: MatchingWeights | None = None,
    **options: Any,
) -> SpeechOutput:
    """The model's output for transcripts; ``options`` are those of ``collate``."""
    targets = [model.builder.encode(text) for text in texts]
    return model(collate(model.builder, targets, frames, **options), matching)


def inputs_of(
    embed: torch.nn.Module,
    builder: PromptBuilder,
    speech: list[torch.Tensor],
    targets: list[list[int]] | None,
    **options: Any,
) -> LlmInputs:
    """What the LLM reads of projected speech and transcripts; ``options`` are those of
    ``collate``.
    """
    return interleave(embed, collate(builder, targets, speech=speech, **options), speech)


def targets_of(inputs: LlmInputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row, column and token of each target, each (targets,)."""
    return inputs.targets.rows, inputs.targets.columns, inputs.targets.ids


def learn(model: SpeechLLM, family: str, frames: list[torch.Tensor], texts: list[str]) -> SpeechLLM:
    """The model, trained with LoRA on a few utterances until their transcripts are the
    likeliest.
    """
    model.add_lora(8, 16, 0.0, LORA[family], 1)
    parameters = [
        parameter for group in model.tune(["projector", "lora"]).values() for parameter in group
    ]
    optimiser = torch.optim.AdamW(parameters, lr=0.01)
    for _ in range(150):
        optimiser.zero_grad()
        output = output_of(model, frames, texts)
        is_learnt = output.num_correct == output.num_targets
        if is_learnt and float(output.loss.detach()) < 0.1 * output.num_targets:
            break
        (output.loss / output.num_targets).backward()
        optimiser.step()
    return model.eval()


def record_again(folder: Path, outputs: Mapping[str, str] | None = None) -> None:
    """Writes the record of a folder whose files were changed; ``outputs`` adds digests to it."""
    record = read_record(folder)
    files = {path.name for path in folder.iterdir()} - {RECORD}
    digests = {name: file_digest(folder / name) for name in sorted(files)}
    (folder / RECORD).unlink()  # it may be a link
    write_record(
        folder,
        record.pop("stage"),
        parameters=record.pop("parameters"),
        inputs=record.pop("inputs"),
        outputs={**digests, **(outputs or {})},
        **{key: value for key, value in record.items() if key not in ("libraries", "outputs")},
    )
