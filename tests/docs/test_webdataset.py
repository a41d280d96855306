"""The lines that train elsewhere on the tars: they are run as the page has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from components.shards.writer import TarMember, write_tar
from tests.bucket import Bucket
from tests.conftest import REPOSITORY
from tests.corpus.clips import clip

from .markdown import blocks

PYTHON = [
    block.text
    for block in blocks(REPOSITORY / "docs/guide/webdataset.md")
    if block.language == "python"
]
SAMPLES_PER_TAR = 2


def write_tars(pattern: str) -> dict[str, int]:
    """Every tar that the pattern names; the length of each recording by its text."""
    from braceexpand import braceexpand

    lengths = {}
    for number, name in enumerate(braceexpand(pattern)):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        members = []
        for part in range(SAMPLES_PER_TAR):
            key, seconds = f"{number}-{part}", 0.05 + 0.001 * number
            payload = clip(seconds=seconds)
            lengths[f"text {key}"] = int(16_000 * seconds)
            members.append(TarMember(key, payload, int(16_000 * seconds), 0, f"text {key}", "", ""))
        write_tar(path, members, "flac")
    return lengths


@pytest.fixture
def schemes() -> Iterator[dict[str, Any]]:
    import webdataset

    before = dict(webdataset.gopen_schemes)
    yield webdataset.gopen_schemes
    webdataset.gopen_schemes.clear()
    webdataset.gopen_schemes.update(before)


def test_the_loader_of_the_page_reads_each_utterance_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = PYTHON[0]
    pattern = next(line for line in code.splitlines() if line.startswith("SHARDS"))
    lengths = write_tars(pattern.split('"')[1])
    batches: list[tuple[torch.Tensor, torch.Tensor, list[str]]] = []
    scope: dict[str, Any] = {"__name__": "elsewhere", "batches": batches}
    exec(code.replace("    ...", "    batches.append((waveforms, lengths, texts))"), scope)
    read = {
        text: int(length)
        for _, counts, texts in batches
        for text, length in zip(texts, counts, strict=True)
    }
    assert read == lengths
    assert sum(len(texts) for _, _, texts in batches) == len(lengths)
    assert max(len(texts) for _, _, texts in batches) == 16
    assert all(waveforms.shape == (len(texts), max(counts)) for waveforms, counts, texts in batches)
    order = [text for _, _, texts in batches for text in texts]
    assert order != list(lengths), "shuffled"


@pytest.mark.slow
def test_the_handler_of_the_page_reads_a_bucket(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schemes: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    lengths = write_tars("tars/train-{000000..000009}.tar")
    bucket.fill(tmp_path, "elsewhere")
    scope: dict[str, Any] = {"__name__": "elsewhere"}
    exec(PYTHON[1].replace("s3://bucket/tars", "s3://recordings/elsewhere/tars"), scope)
    assert len(list(scope["dataset"])) == len(lengths)
    assert "s3" in schemes
