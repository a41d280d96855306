"""The prompt: where the speech stands, what counts as a target, and the loss on it by
its formula.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.config.entries import Prompt
from components.model.llms.batch import LlmInputs
from components.model.llms.causal import load_tokenizer, predict_targets
from components.model.llms.prompt import PromptBuilder
from tests.checkpoints import (
    LLMS,
    LORA,
    frames_of,
    inputs_of,
    joined,
    output_of,
    save_tokenizer,
    targets_of,
    tokenizer,
)
from tests.errors import refused

PAPER = Prompt("USER: {speech} Transcribe speech to text. ASSISTANT: ")
SPEECH_FIRST = Prompt("{speech}USER: Transcribe speech to text. ASSISTANT: ")
WIDTH = 8


def embedding(size: int = 300) -> torch.nn.Embedding:
    torch.manual_seed(0)
    return torch.nn.Embedding(size, WIDTH)


def rows_of(inputs: LlmInputs) -> list[torch.Tensor]:
    """What the LLM reads of each utterance, padding taken off."""
    masks = inputs.attention_mask
    return [row[mask.bool()] for row, mask in zip(inputs.embeddings, masks, strict=True)]


@pytest.mark.parametrize(
    ("prompt", "before", "after"),
    [
        (PAPER, "USER: ", " Transcribe speech to text. ASSISTANT: "),
        (SPEECH_FIRST, "", "USER: Transcribe speech to text. ASSISTANT: "),
    ],
)
@pytest.mark.parametrize("text", [None, "amber birch"])
def test_text_stands_around_the_speech_as_the_template_says(
    prompt: Prompt, before: str, after: str, text: str | None
) -> None:
    units, embed, speech = tokenizer(), embedding(), frames_of([3, 7], WIDTH)
    builder = PromptBuilder(units, prompt)
    answer = [] if text is None else [*units(text).input_ids, units.eos_token_id]
    inputs = inputs_of(embed, builder, speech, None if text is None else [builder.encode(text)] * 2)
    for row, frames in zip(rows_of(inputs), speech, strict=True):
        ids = [units.bos_token_id, *units(before).input_ids]
        wanted = torch.cat(
            [
                embed(torch.tensor(ids)),
                frames,
                embed(torch.tensor([*units(after).input_ids, *answer])),
            ]
        )
        assert torch.equal(row, wanted)
    assert (
        units.decode(builder.before[1:]) + "|" + units.decode(builder.after) == f"{before}|{after}"
    )


def test_the_prompt_begins_with_bos_only_where_wanted_and_known() -> None:
    units = tokenizer()
    assert PromptBuilder(units, PAPER).before[0] == units.bos_token_id
    assert units.bos_token_id not in PromptBuilder(units, Prompt(PAPER.template, bos="none")).before
    units.bos_token = None
    assert (
        PromptBuilder(units, PAPER).before
        == PromptBuilder(units, Prompt(PAPER.template, bos="none")).before
    )


def test_bos_stands_after_the_speech_where_the_entry_says_so() -> None:
    """The order of SLAM-ASR's released code; Fathullah et al. have no instruction either."""
    units, embed, speech = tokenizer(), embedding(), frames_of([3, 7], WIDTH)
    for template in (SPEECH_FIRST.template, "{speech}"):
        builder = PromptBuilder(units, Prompt(template, bos="after-speech"))
        inputs = inputs_of(embed, builder, speech, [builder.encode("amber")] * 2)
        text = units(template.removeprefix("{speech}")).input_ids if template != "{speech}" else []
        ids = [units.bos_token_id, *text, *units("amber").input_ids, units.eos_token_id]
        for row, frames in zip(rows_of(inputs), speech, strict=True):
            assert torch.equal(row, torch.cat([frames, embed(torch.tensor(ids))]))


@pytest.mark.parametrize("bos", ["first", "after-speech", "none"])
def test_a_bos_that_the_template_writes_out_is_not_doubled(bos: str) -> None:
    """SmolLM2: its BOS is the token that opens a turn of ChatML."""
    units = tokenizer(form="smollm2")
    assert units.bos_token == "<|im_start|>"
    builder = PromptBuilder(
        units, Prompt("<|im_start|>user\n{speech}<|im_start|>assistant\n", bos=bos)
    )
    assert units.decode(builder.before) == "<|im_start|>user\n"
    assert units.decode(builder.after) == "<|im_start|>assistant\n"


def test_a_tokenizer_without_an_end_is_refused_where_the_entry_names_none() -> None:
    units = tokenizer()
    units.eos_token = None
    with refused(None, "prompt.eos"):
        PromptBuilder(units, PAPER)
    builder = PromptBuilder(units, Prompt(PAPER.template, eos="<pad>"))
    assert builder.eos == units.pad_token_id
    assert builder.decode([*builder.encode("amber"), builder.eos, 40]) == "amber"


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        (Prompt("<|im_start|>user\n{speech}<|im_end|>"), ["prompt.template", "'<|im_start|>'"]),
        (Prompt(PAPER.template, eos="<|eot_id|>"), ["prompt.eos", "'<|eot_id|>'"]),
    ],
)
def test_a_special_token_that_the_tokenizer_lacks_is_refused(
    prompt: Prompt, parts: list[str]
) -> None:
    with refused(None, *parts):
        PromptBuilder(tokenizer(), prompt)


def test_a_template_that_runs_into_an_attached_transcript_is_refused() -> None:
    """A byte-level tokenizer joins a space at the end with the word behind it; search would then
    read another prompt.
    """
    attached = Prompt("{speech}USER: Transcribe speech to text. ASSISTANT: ", transcript="attached")
    with refused(None, "'amber'", "prompt.transcript"):
        PromptBuilder(tokenizer(), attached).encode("amber")
    builder = PromptBuilder(tokenizer(), Prompt(attached.template.rstrip(), transcript="attached"))
    assert builder.decode(builder.encode("amber")) == "amber"
    assert builder.encode(" ") == []


@given(
    st.lists(
        st.sampled_from(["<s>", "</s>", "<pad>", "<|im_end|>", " ", "a", "<", "/s>"]), max_size=8
    ).map("".join)
)
def test_special_tokens_in_a_transcript_are_plain_text(text: str) -> None:
    builder = PromptBuilder(tokenizer(form="chat-words"), Prompt("{speech}", eos="<|im_end|>"))
    ids = builder.encode(text)
    assert min(ids, default=3) > 2
    assert builder.eos not in ids
    assert builder.decode([*ids, builder.eos]) == " ".join(text.split())


@pytest.mark.parametrize("pad", ["<pad>", "</s>"])
def test_the_end_is_a_target_whatever_the_padding_token_is(pad: str) -> None:
    units = tokenizer(pad)
    assert (units.pad_token_id == units.eos_token_id) == (pad == "</s>")
    builder = PromptBuilder(units, PAPER)
    texts = ["amber birch cedar", "", "delta"]
    targets = [builder.encode(text) for text in texts]
    inputs = inputs_of(embedding(), builder, frames_of([2, 9, 4], WIDTH), targets)
    rows, columns, labels = targets_of(inputs)
    assert labels.tolist() == [
        token for target in targets for token in (*target, units.eos_token_id)
    ]
    assert rows.tolist() == [
        row for row, target in enumerate(targets) for _ in range(len(target) + 1)
    ]
    # The last place of an utterance is read, and the one after it holds its end of sequence: the
    # last that is not padding.
    for row, target in enumerate(targets):
        places = columns[rows == row]
        length = int(inputs.attention_mask[row].sum())
        assert places.tolist() == list(range(length - 2 - len(target), length - 1))


def test_an_empty_transcript_has_the_end_alone_as_target() -> None:
    builder = PromptBuilder(tokenizer(), PAPER)
    assert builder.encode("") == builder.encode(" \n ") == []
    inputs = inputs_of(embedding(), builder, frames_of([3], WIDTH), [builder.encode("")])
    _, columns, labels = targets_of(inputs)
    assert labels.tolist() == [builder.eos]
    assert columns.tolist() == [len(builder.before) + 3 + len(builder.after) - 1]


def test_padding_stands_left_for_generation_and_right_for_training() -> None:
    builder, speech = PromptBuilder(tokenizer(), PAPER), frames_of([2, 6], WIDTH)
    generation = inputs_of(embedding(), builder, speech, None)
    training = inputs_of(embedding(), builder, speech, [[5, 6], [5, 6]])
    left, right = generation.attention_mask, training.attention_mask
    assert left[0].tolist() == [0] * 4 + [1] * (left.shape[1] - 4)
    assert right[0].tolist() == [1] * (right.shape[1] - 4) + [0] * 4
    assert left[1].all()
    assert right[1].all()
    assert not generation.embeddings[0, :4].any()
    assert len(targets_of(generation)[2]) == 0


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    for case in ("as-is", "lower"):
        builder = PromptBuilder(UNITS, PAPER, case)
        wanted = " ".join((text.lower() if case == "lower" else text).split())
        assert builder.decode(builder.encode(text)) == wanted
        assert builder.decode([*builder.encode(text), builder.eos, 40, 41]) == wanted


UNITS = tokenizer()


def test_a_tokenizer_read_from_its_folder_gives_the_text_back_too(tmp_path: Path) -> None:
    UNITS.save_pretrained(tmp_path)
    builder = PromptBuilder(load_tokenizer(tmp_path), PAPER)
    for text in ("it 's , well . isn 't it ?", "4 :  30", "Grüße, 四 !", "A\tB"):
        assert builder.decode(builder.encode(text)) == " ".join(text.split())


@pytest.mark.parametrize("family", LLMS)
def test_the_loss_is_cross_entropy_on_transcript_and_end_alone(family: str, tmp_path: Path) -> None:
    """Against the formula, one utterance at a time: logits of the whole sequence, softmax, the
    answer's tokens.
    """
    model = joined(tmp_path, family)
    texts, frames = ["Amber birch", "", "delta ember fjord grove"], frames_of([9, 4, 14])
    units, llm = model.tokenizer, model.llm
    before, after = (
        units("USER: ").input_ids,
        units(" Transcribe speech to text. ASSISTANT: ").input_ids,
    )
    total, count, right = 0.0, 0, 0
    with torch.no_grad():
        output = output_of(model, frames, texts)
        for text, each in zip(texts, frames, strict=True):
            answer = [*units(text.lower()).input_ids, units.eos_token_id]
            embed = llm.get_input_embeddings()
            parts = [embed(torch.tensor([units.bos_token_id, *before])), model.projector([each])[0]]
            parts.append(embed(torch.tensor([*after, *answer])))
            logits = llm(inputs_embeds=torch.cat(parts)[None]).logits[0, -len(answer) - 1 : -1]
            probabilities = torch.log_softmax(logits.double(), -1)
            total -= sum(float(probabilities[place, token]) for place, token in enumerate(answer))
            count += len(answer)
            right += sum(
                int(probabilities[place].argmax() == token) for place, token in enumerate(answer)
            )
    assert (output.num_targets, output.num_correct) == (count, right)
    assert float(output.loss) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("pad", ["<pad>", "</s>"])
def test_the_end_is_learnt_where_padding_is_the_same_token(pad: str, tmp_path: Path) -> None:
    model = joined(tmp_path, pad=pad)
    frames, texts = frames_of([6, 12]), ["amber", "delta ember fjord grove"]
    model.add_lora(8, 16, 0.0, LORA["llama"], 1)
    optimiser = torch.optim.Adam(
        [each for group in model.tune(["projector", "lora"]).values() for each in group], lr=0.01
    )
    for _ in range(40):
        optimiser.zero_grad()
        output = output_of(model, frames, texts)
        (output.loss / output.num_targets).backward()
        optimiser.step()
    speech = model.projector(frames)
    targets = [model.builder.encode(text) for text in texts]
    inputs = inputs_of(model.llm.get_input_embeddings(), model.builder, speech, targets)
    is_end = inputs.targets.ids == model.tokenizer.eos_token_id
    assert predict_targets(model.llm, inputs).is_correct[is_end].tolist() == [True, True]


def test_a_drawn_template_stands_around_its_utterance_and_search_reads_the_first(
    tmp_path: Path,
) -> None:
    units = save_tokenizer(tmp_path)
    first, other = "USER: {speech} amber: ", "{speech} birch cedar: "
    builder = PromptBuilder(units, Prompt(first, variants=[other]))
    alone = [PromptBuilder(units, Prompt(template)) for template in (first, other)]
    embed = torch.nn.Embedding(len(units), 4)
    speech = [torch.randn(length, 4) for length in (2, 3)]
    targets = [builder.encode("delta"), builder.encode("ember fjord")]
    drawn = inputs_of(embed, builder, speech, targets, is_packed=True, template_index=[1, 0])
    for place, start in ((0, 0), (1, int((drawn.position_ids == 0).nonzero()[1, 1]))):
        one = inputs_of(
            embed, alone[1 - place], speech[place : place + 1], targets[place : place + 1]
        )
        assert torch.equal(
            drawn.embeddings[0, start : start + one.embeddings.shape[1]], one.embeddings[0]
        )
    assert (builder.before, builder.after) == (alone[0].before, alone[0].after)
    assert torch.equal(
        inputs_of(embed, builder, speech, None).embeddings,
        inputs_of(embed, alone[0], speech, None).embeddings,
    )
