"""Missing CTC heads stop every stage at its start, by the catalogue entry of the encoder alone."""

from __future__ import annotations

from typing import Any

import pytest

from components.config.errors import InputError
from components.config.heads import has_ctc_by_entry
from components.config.model_sources import LocalSource
from components.config.params import read_overridden_params
from components.runtime.stage import check_names
from tests.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


LIVE = {"features.mode": "live", "train.curriculum.0.tune": ["encoder"], "train.ctc_weight": 0.5}


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"projector": "ctc-compressor", "encoder": "whisper-tiny"}, "projector"),
        ({"projector": "ctc-compressor-blanks", "encoder": "hubert-large"}, "projector"),
        ({"projector": "ctc-compressor", "encoder": "fbank"}, "projector"),
        ({"projector": "ctc-compressor", "features.layer": 2}, "features.layer"),
        ({**LIVE, "encoder": "whisper-tiny"}, "train.ctc_weight"),
    ],
)
def test_an_encoder_without_ctc_units_stops_every_stage(
    changes: dict[str, Any], subject: str
) -> None:
    with pytest.raises(InputError, match=changes.get("encoder", "")) as stopped:
        check_names(read_overridden_params(changes, "overrides"))
    assert stopped.value.subject == subject
    assert stopped.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"projector": "ctc-compressor"},
        {"projector": "ctc-compressor", "encoder": "hubert-large-ls960-ft"},
        {"projector": "linear", "encoder": "whisper-tiny", "features.layer": 2},
        LIVE,
    ],
)
def test_an_encoder_with_ctc_units_passes(changes: dict[str, Any]) -> None:
    check_names(read_overridden_params(changes, "overrides"))


def test_a_folder_without_a_shape_is_checked_by_the_training() -> None:
    assert has_ctc_by_entry(LocalSource("folder", "mine")) is None
    assert has_ctc_by_entry(LocalSource("folder", "mine", shape={"architectures": ["WavLMForCTC"]}))
