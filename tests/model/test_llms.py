"""LLMs by name: every entry of the catalogue over a tiny checkpoint of its family that has its kind
of tokenizer.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from components.config import catalogue
from components.config.entries import Prompt
from components.model.llms.causal import load_llm, load_tokenizer
from components.model.llms.prompt import PromptBuilder
from components.model.speech_llm import SpeechLLM
from components.search.beam import search
from components.search.constraints import GREEDY
from tests.checkpoints import (
    BOTH,
    FORMS,
    LLMS,
    LORA,
    frames_of,
    inputs_of,
    joined,
    learn,
    output_of,
    save_llm,
    save_tokenizer,
    targets_of,
)
from tests.errors import refused

NAMES = catalogue.names("llm")
REAL = [name for name in NAMES if catalogue.llm(name).source.kind == "hub"]
# The kind of tokenizer that the checkpoints of these names have; the longest beginning counts.
FORM = {
    "llama": "sentencepiece",
    "llama-3": "llama-3",
    "vicuna": "sentencepiece",
    "tinyllama": "sentencepiece",
    "tinyllama-chat": "chat-words",
    "phi": "phi",
    "bloom": "plain",
    "qwen": "qwen",
    "smollm2": "smollm2",
}
SEARCH = replace(GREEDY, beams=4, max_tokens=40)
# One prompt of each form, over a family that has it.
FORMED = {
    "llama": "vicuna-7b",
    "phi": "phi-2",
    "qwen2": "qwen2-5-0-5b",
    "qwen3": "qwen3-0-6b",
    "bloom": "bloom-560m",
    "gpt_neox": "tinyllama-chat",  # no entry is of this family: its prompt stands in
}
# Bloom tells places apart by the slopes of its heads alone: two of them at random weights are too
# few to learn from.
EASIER: dict[str, dict[str, Any]] = {"bloom": {"n_head": 8, "initializer_range": 0.2}}
# LibriSpeech's own (upper case, apostrophes), MLS (letters with marks), and what people type.
TRANSCRIPTS = [
    "IT'S A FAR CRY FROM O'CLOCK",
    "übrig geblieben für die straße",
    "à l'âge où l'on œuvre",
    "zażółć gęślą jaźń",
    "it 's , well . isn 't it ?",
    "at 4:30, 50 % of $3",
    "四 ",
    "he wrote </s> and <s> and <|im_end|> and <|im_start|>user",
    "<|endoftext|> [INST] <pad> <unk>",
]


def form_of(name: str) -> str:
    return FORM[max((begin for begin in FORM if name.startswith(begin)), key=len)]


def family_of(name: str) -> str:
    entry = catalogue.llm(name)
    is_trained_elsewhere = entry.source.kind in ("hub", "package")
    return entry.card["family"] if is_trained_elsewhere else entry.source.model_type


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    for form in FORMS:
        save_tokenizer(folder / form, form)
    return {form: folder / form for form in FORMS}


def learnt(
    folder: Path,
    family: str,
    form: str,
    prompt: Prompt,
    texts: list[str],
    frames: list[torch.Tensor],
) -> SpeechLLM:
    """A model that was trained on a few utterances until their transcripts are the likeliest."""
    model = joined(folder, family, form=form, prompt=prompt, **EASIER.get(family, {}))
    return learn(model, family, frames, texts)


@pytest.mark.parametrize("name", NAMES)
def test_the_entry_fits_its_family(name: str, tmp_path: Path) -> None:
    """LoRA is added to all that it names, four projections or their fused form in each layer, by
    the entry alone; SpeechBrain's recipe adapts the feed-forward part too.
    """
    entry, family = catalogue.llm(name), family_of(name)
    beyond = ["gate_proj", "up_proj", "down_proj"] if name.endswith("-speechbrain") else []
    assert entry.lora.targets == LORA[family] + beyond
    model = joined(tmp_path, family, prompt=Prompt("{speech}"))
    model.add_lora(2, 4, 0.0, entry.lora.targets, 1)
    assert (
        len(model.tune(["lora"])["lora"])
        == 2 * len(entry.lora.targets) * model.llm.config.num_hidden_layers
    )


@pytest.mark.parametrize("name", REAL)
def test_the_entry_says_what_is_fetched(name: str) -> None:
    source, card = catalogue.llm(name).source, catalogue.llm(name).card
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", source.repo)
    assert re.fullmatch(r"[0-9a-f]{40}", source.revision) or (
        source.revision == "" and "revision not pinned yet" in card["notes"]
    )
    assert {"config.json", "tokenizer_config.json"} <= set(source.files)
    assert {"tokenizer.json", "tokenizer.model"} & set(source.files)
    assert len(source.files) == len(set(source.files))
    weights = [file for file in source.files if file.endswith((".safetensors", ".bin"))]
    assert len({Path(file).suffix for file in weights}) == 1
    parts = {match[1] for file in weights if (match := re.search(r"-of-(\d+)\.", file))}
    if parts:
        assert len(parts) == 1
        assert len(weights) == int(parts.pop())
        assert [file for file in source.files if file.endswith(".index.json")]
    assert {"licence", "access", "copies"} <= card.keys()


@pytest.mark.parametrize("name", REAL)
def test_the_prompt_reads_as_the_template_says(name: str, tokenizers: dict[str, Path]) -> None:
    units = load_tokenizer(tokenizers[form_of(name)])
    prompt = catalogue.llm(name).prompt
    builder = PromptBuilder(units, prompt)
    before, after = prompt.template.split("{speech}")
    starts = {"first": builder.before, "after-speech": builder.after, "none": []}[prompt.bos][:1]
    assert units.decode(starts) == (units.bos_token if starts and units.bos_token else "")
    texts = [
        units.decode(ids[1:] if ids[:1] == [units.bos_token_id] and starts else ids)
        for ids in (builder.before, builder.after)
    ]
    # LLaMA's tokenizers put a space before a text and take it away again when it is read back.
    assert [text.strip() for text in texts] == [before.strip(), after.strip()]
    for ids in (builder.before, builder.after):
        for token in re.findall(r"<\|\w+\|>", units.decode(ids)):
            assert units.convert_tokens_to_ids(token) in ids


def test_the_prompts_begin_and_end_as_their_families_do(tokenizers: dict[str, Path]) -> None:
    def of(name: str) -> tuple[PromptBuilder, dict[str, int]]:
        units = load_tokenizer(tokenizers[form_of(name)])
        return PromptBuilder(units, catalogue.llm(name).prompt), units.get_vocab()

    paper, vocabulary = of("vicuna-7b")
    released, _ = of("vicuna-7b-released")
    assert paper.before[0] == vocabulary["<s>"]
    assert vocabulary["<s>"] not in paper.before[1:] + paper.after
    assert (released.before, released.after[0]) == ([], vocabulary["<s>"])
    bare, _ = of("llama-7b-bare")
    assert (bare.before, bare.after) == ([], [vocabulary["<s>"]])
    for name in ("qwen2-5-0-5b", "qwen3-0-6b", "smollm2-135m", "smollm2-360m", "tinyllama-chat"):
        chat, vocabulary = of(name)
        starts = [
            place
            for place, token in enumerate([*chat.before, *chat.after])
            if token == vocabulary["<|im_start|>"]
        ]
        assert len(starts) == 2, name
        assert starts[0] == (name == "tinyllama-chat"), "it alone begins with <s>"
        assert chat.eos == vocabulary["<|im_end|>"]
    phi, vocabulary = of("phi-2")
    assert vocabulary["<|endoftext|>"] == phi.eos
    assert phi.eos not in phi.before + phi.after


@pytest.mark.parametrize("text", ["amber birch", "grove  inlet", "Ember", "ünder 4"])
def test_the_released_code_has_one_string_of_prompt_and_transcript(
    text: str, tokenizers: dict[str, Path]
) -> None:
    """X-LANCE/SLAM-LLM, speech_dataset.py: what stands behind the ids of the prompt is the target,
    then the end of sequence. By itself the first word would get the token of a word behind a space.
    """
    units = load_tokenizer(tokenizers["sentencepiece"])
    written = " ".join(text.lower().split())
    whole = units(
        "USER: Transcribe speech to text. \n ASSISTANT:" + written, add_special_tokens=False
    ).input_ids
    builder = PromptBuilder(units, catalogue.llm("vicuna-7b-released").prompt, "lower")
    embed, speech = torch.nn.Embedding(len(units), 8), frames_of([4], 8)
    inputs = inputs_of(embed, builder, speech, [builder.encode(text)])
    labels = targets_of(inputs)[2].tolist()
    read = torch.cat(
        [speech[0], embed(torch.tensor([units.bos_token_id, *whole, units.eos_token_id]))]
    )
    assert torch.equal(inputs.embeddings[0], read)
    assert labels == [*whole[len(builder.after) - 1 :], units.eos_token_id]
    assert builder.decode(labels) == written
    assert units.convert_ids_to_tokens(labels[0]) != "▁" + written[0]
    papers = PromptBuilder(units, catalogue.llm("vicuna-7b").prompt, "lower").encode(text)
    assert papers == units(written, add_special_tokens=False).input_ids != builder.encode(text)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", TRANSCRIPTS)
def test_a_transcript_comes_back_from_its_tokens(
    form: str, text: str, tokenizers: dict[str, Path]
) -> None:
    prompt = (
        Prompt("<|im_start|>{speech}", eos="<|im_end|>")
        if form == "chat-words"
        else Prompt("say: {speech}")
    )
    units = load_tokenizer(tokenizers[form])
    builder = PromptBuilder(units, prompt)
    ids = builder.encode(text)
    assert not set(ids) & (
        {builder.eos}
        | {place for place, token in units.added_tokens_decoder.items() if token.special}
    )
    assert builder.decode([*ids, builder.eos, *ids]) == " ".join(text.split())


@pytest.mark.parametrize("family", LLMS)
def test_utterances_are_learnt_to_the_letter(family: str, tmp_path: Path) -> None:
    """Search then gives the new text alone, up to the end of the turn, and four at once as each
    alone.
    """
    name = FORMED[family]
    texts = ["heron inlet juniper amber", "", "grove", "cedar delta"]
    frames = frames_of([24, 5, 9, 17])
    model = learnt(tmp_path, family, form_of(name), catalogue.llm(name).prompt, texts, frames)
    found = search(model, frames, [2.0] * 4, SEARCH)
    assert [each.text for each in found] == texts
    assert [each.tokens for each in found] == [model.builder.encode(text) for text in texts]
    for each, alone in zip(found, frames, strict=True):
        single = search(model, [alone], [2.0], SEARCH)[0]
        assert (single.text, single.tokens) == (each.text, each.tokens)
        assert single.score == pytest.approx(each.score, abs=1e-4)


@pytest.mark.parametrize("family", LLMS)
@pytest.mark.parametrize("width", [80, 384, 512, 768, 1024, 1280, 2048])
def test_every_family_follows_every_width_of_frames(
    family: str, width: int, tmp_path: Path
) -> None:
    """Filter banks, Whisper tiny to large, HuBERT, WavLM, Conformer, two joined."""
    model = joined(tmp_path, family, width=width)
    output = output_of(model, frames_of([7, 12], width), ["amber", "birch cedar"], BOTH)
    assert output.num_targets == sum(
        len(model.builder.encode(text)) + 1 for text in ("amber", "birch cedar")
    )
    assert torch.isfinite(output.loss + output.matching_loss)
    inputs = inputs_of(
        model.llm.get_input_embeddings(),
        model.builder,
        model.projector(frames_of([7, 12], width)),
        None,
    )
    assert inputs.embeddings.shape[-1] == model.llm.get_input_embeddings().embedding_dim


@pytest.mark.parametrize("family", LLMS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_wanted_dtype_is_that_of_the_llm_and_an_overflow_shows_in_the_loss(
    family: str, dtype: str, tmp_path: Path
) -> None:
    """A loss that is no number stops the training; in float32 the same weights have one."""
    model, frames, texts = joined(tmp_path, family), frames_of([7, 12]), ["amber", "birch cedar"]
    with torch.no_grad():
        exact = output_of(model, frames, texts)
        model.llm = load_llm(tmp_path / "llm", dtype, "cpu")[0]
        assert {parameter.dtype for parameter in model.llm.parameters()} == {getattr(torch, dtype)}
        assert {parameter.dtype for parameter in model.projector.parameters()} == {torch.float32}
        assert float(output_of(model, frames, texts).loss) == pytest.approx(
            float(exact.loss), rel=0.01 if dtype == "float16" else 0.1
        )
        weights = load_file(tmp_path / "llm/model.safetensors")
        norms = [
            name
            for name in weights
            if re.search(r"(^|\.)(norm|final_layernorm|final_layer_norm|ln_f)\.weight$", name)
        ]
        assert len(norms) == 1, norms
        save_file(
            {**weights, norms[0]: weights[norms[0]] * 6e4},
            tmp_path / "llm/model.safetensors",
            metadata={"format": "pt"},
        )
        for each, whole in (("float16", False), ("bfloat16", True), ("float32", True)):
            model.llm = load_llm(tmp_path / "llm", each, "cpu")[0]
            assert bool(torch.isfinite(output_of(model, frames, texts).loss)) == whole, each


def test_sampling_and_penalties_of_a_checkpoint_do_not_reach_the_search(tmp_path: Path) -> None:
    """As Qwen2.5 ships them; the end of the turn is the entry's too, whatever else the checkpoint
    ends at.
    """
    plain, frames = joined(tmp_path / "plain", "qwen2", form="qwen"), frames_of([7, 12, 20])
    other = joined(tmp_path / "other", "qwen2", form="qwen")
    settings = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        top_k=3,
        repetition_penalty=9.0,
        no_repeat_ngram_size=1,
        min_new_tokens=9,
        eos_token_id=list(range(20, 200)),
    )
    settings.save_pretrained(tmp_path / "other/llm")
    other.llm = load_llm(tmp_path / "other/llm", "float32", "cpu")[0]
    found = search(other, frames, [1.0] * 3, SEARCH)
    assert [each.tokens for each in found] == [
        each.tokens for each in search(plain, frames, [1.0] * 3, SEARCH)
    ]
    assert any(len(set(each.tokens)) < len(each.tokens) for each in found), (
        "something is said twice, or a penalty would not show"
    )


def test_a_family_that_bends_its_logits_is_refused(tmp_path: Path) -> None:
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
    }
    LLMS["granite"] = shape
    try:
        load_llm(save_llm(tmp_path / "straight", "granite", logits_scaling=1.0), "float32", "cpu")
        with refused(None, "logits_scaling", "GraniteForCausalLM"):
            load_llm(save_llm(tmp_path / "bent", "granite", logits_scaling=8.0), "float32", "cpu")
    finally:
        del LLMS["granite"]
