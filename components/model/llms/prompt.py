"""The prompt: which tokens surround the speech, and how a transcript becomes target tokens.

The catalogue's template has ``{speech}`` at the position of the projected frames: ``USER: {speech}
Transcribe speech to text. ASSISTANT: `` is the order of the SLAM-ASR paper (section 3); its
released code puts the speech first and the BOS after it. Special tokens are in the template by
their names; in a transcript the same letters are plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from transformers import AddedToken

from components.config.entries import Prompt
from components.config.errors import InputError
from components.model.llms.segmentation import Segmentation
from components.runtime.hashing import seed_of

SPEECH = "{speech}"  # in a template: the position of the projected frames
# How ChatML and the Llama 3 family write their special tokens.
SPECIAL = re.compile(r"<\|[^<>|]+\|>")


class PromptBuilder:
    """Token ids around the speech, and targets, for one tokenizer; an LLM of ``vocabulary_size``
    embeddings reads them. ``list_target_tokens`` gives the tokens that transcripts are written in
    at present, none for those of the tokenizer.

    Raises InputError where the tokenizer does not know a special token that the prompt names, or
    has no end of sequence, or where the prompt has a token that the LLM has no embedding of.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt: Prompt,
        text_case: str = "as-is",
        vocabulary_size: int | None = None,
        list_target_tokens: Callable[[], Sequence[int]] = tuple,
    ) -> None:
        self._tokenizer, self._case, self._vocabulary_size = tokenizer, text_case, vocabulary_size
        self._list_target_tokens = list_target_tokens
        self._segmentations: dict[tuple[int, ...], Segmentation] = {}
        self._prompt = prompt
        templates = (prompt.template, *prompt.variants)
        for token in dict.fromkeys(SPECIAL.findall("".join(templates))):
            self._special_id(token, "template")
        # (ids before, ids after the speech) of each; training draws one.
        self.templates = [self._split(template, prompt.bos) for template in templates]
        self.before, self.after = self.templates[0]
        self._is_drawn_in_search = prompt.search == "drawn"
        if not prompt.eos and tokenizer.eos_token_id is None:
            raise InputError(
                f"The tokenizer of {tokenizer.name_or_path} has no end-of-sequence token.",
                subject=tokenizer.name_or_path,
                hint="Name one of its tokens in prompt.eos of the LLM's catalogue entry.",
            )
        self.eos = (
            self._special_id(prompt.eos, "eos") if prompt.eos else int(tokenizer.eos_token_id)
        )
        # Where prompt and transcript are tokenized as one string, the text that precedes the
        # transcript, and its ids.
        is_attached = prompt.transcript == "attached"
        self._prefix = prompt.template.partition(SPEECH)[2] if is_attached else ""
        self._prefix_ids = self._plain_ids(self._prefix) if self._prefix else []
        prompt_ids = [token for sides in self.templates for ids in sides for token in ids]
        self._check_vocabulary([*prompt_ids, self.eos], "the prompt and its end")

    def with_context(self, text: str) -> PromptBuilder:
        """The same with ``text`` before the speech: a sentence about the recordings adapts an LLM
        to them without training (Li et al. 2023, arXiv 2306.16007).
        """
        if not text:
            return self

        def insert(template: str) -> str:
            return template.replace(SPEECH, f"{text} {SPEECH}")

        prompt = replace(
            self._prompt,
            template=insert(self._prompt.template),
            variants=[insert(variant) for variant in self._prompt.variants],
        )
        return PromptBuilder(
            self._tokenizer, prompt, self._case, self._vocabulary_size, self._list_target_tokens
        )

    def _split(self, template: str, bos_position: str) -> tuple[list[int], list[int]]:
        """Ids before and after the speech, with the BOS ``first``, ``after-speech`` or nowhere."""
        before, after = (
            list(self._tokenizer(part, add_special_tokens=False).input_ids)
            for part in template.split(SPEECH)
        )
        part = {"first": before, "after-speech": after}.get(bos_position)
        bos = self._tokenizer.bos_token_id
        if part is not None and bos is not None and part[:1] != [bos]:  # a template may have it
            part.insert(0, bos)
        return before, after

    def _special_id(self, token: str, field: str) -> int:
        """The id of ``token``, which must be one token of the vocabulary; afterwards it is no part
        of plain text.
        """
        index = self._tokenizer.convert_tokens_to_ids(token)
        is_unknown = index == self._tokenizer.unk_token_id and token != self._tokenizer.unk_token
        if index is None or is_unknown:
            raise InputError(
                f"prompt.{field} names '{token}', which the tokenizer of "
                f"{self._tokenizer.name_or_path} does not have.",
                subject=token,
                hint="Set the prompt in the LLM's catalogue entry to the checkpoint's chat format.",
            )
        added = self._tokenizer.added_tokens_decoder.get(index)
        if added is None or not added.special:  # some checkpoints add their chat tokens as words
            self._tokenizer.add_tokens(
                [AddedToken(token, special=True, normalized=False)], special_tokens=True
            )
        return int(index)

    def _check_vocabulary(self, ids: Sequence[int], source: str) -> None:
        """Raises InputError where ``ids``, the tokens of ``source``, are beyond the LLM's
        vocabulary.
        """
        if self._vocabulary_size is not None and ids and max(ids) >= self._vocabulary_size:
            raise InputError(
                f"The tokenizer of {self._tokenizer.name_or_path} makes token {max(ids)} of "
                f"{source}; the LLM has {self._vocabulary_size}.",
                subject=self._tokenizer.name_or_path,
                hint="Take the tokenizer that the checkpoint was trained with.",
            )

    def encode(self, text: str) -> list[int]:
        """Token ids of a transcript, without the end of sequence; empty for an empty one.

        Raises InputError where the first of them would be joined with the end of the template,
        which search reads alone, and for a token that the LLM has no embedding of.
        """
        words = self._normalise(text)
        if tokens := tuple(self._list_target_tokens()):
            if tokens not in self._segmentations:
                self._segmentations[tokens] = Segmentation(self._tokenizer, tokens)
            target = self._segmentations[tokens](words)
            self._check_vocabulary(target, f"'{text[:40]}'")
            return target
        ids = self._plain_ids(self._prefix + words) if words else self._prefix_ids
        if ids[: len(self._prefix_ids)] != self._prefix_ids:
            raise InputError(
                f"The tokenizer of {self._tokenizer.name_or_path} joins the end of the "
                f"prompt's template with '{words[:40]}'.",
                subject="prompt.transcript",
                hint="Set prompt.transcript of the LLM's catalogue entry to apart.",
            )
        target = ids[len(self._prefix_ids) :]
        self._check_vocabulary(target, f"'{text[:40]}'")
        return target

    def encode_alone(self, text: str) -> list[int]:
        """Token ids of a text by itself, behind ``text_start``: in the LLM's own tokens, as it has
        read texts, whatever transcripts are written in.
        """
        return self._plain_ids(self._normalise(text))

    @property
    def text_start(self) -> int:
        """The id before a text by itself: BOS, or the end of sequence where there is none."""
        bos: int | None = self._tokenizer.bos_token_id
        return self.eos if bos is None else bos

    def _normalise(self, text: str) -> str:
        words = " ".join(text.split())
        return words.lower() if self._case == "lower" else words

    def _plain_ids(self, text: str) -> list[int]:
        """Ids of ``text``, special tokens split: '</s>' in a transcript is four characters that
        somebody wrote, not the end.
        """
        return list(
            self._tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        )

    @cached_property
    def special_ids(self) -> set[int]:
        """Ids of tokens that are no text."""
        added = self._tokenizer.added_tokens_decoder.items()
        added_ids = {index for index, token in added if token.special}
        return {*self._tokenizer.all_special_ids, self.eos} | added_ids

    def list_plain_tokens(self) -> list[int]:
        """Ids of the vocabulary that are no special tokens: what a transcript may consist of."""
        return sorted(set(self._tokenizer.get_vocab().values()) - self.special_ids)

    def choose_templates(self, utterance_ids: Sequence[str]) -> list[int]:
        """Which of the templates search puts around each utterance: the first, or, where the prompt
        says so, one drawn by the id of the utterance, always the same.
        """
        if not self._is_drawn_in_search:
            return [0] * len(utterance_ids)
        count = len(self.templates)
        return [seed_of("prompt", utterance_id) % count for utterance_id in utterance_ids]

    def decode(self, tokens: Sequence[int]) -> str:
        """The transcript of generated token ids, up to the first end of sequence."""
        tokens = list(tokens)
        end = tokens.index(self.eos) if self.eos in tokens else len(tokens)
        # No clean-up: it would remove the space before punctuation that is a word of its own in
        # the transcript.
        text = self._tokenizer.decode(
            tokens[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return " ".join(text.split())
