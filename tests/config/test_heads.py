"""CTC units that an encoder can't give are refused from its catalogue entry alone, at the start of
every stage.
"""

from __future__ import annotations

from typing import Any

import pytest

from components.config.errors import InputError
from components.config.heads import has_ctc_by_entry
from components.config.model_sources import EncoderSource
from components.config.params import read_overridden_params
from components.runtime.stage import check_names
from tests.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


LIVE = {"features.mode": "live", "train.curriculum.0.tune": ["encoder"], "train.ctc_weight": 0.5}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"projector": "ctc-compressor", "encoder": "whisper-tiny"},
            r"encoder 'whisper-tiny' has no CTC head.*no ctc-compressor",
        ),
        (
            {"projector": "ctc-compressor-blanks", "encoder": "hubert-large"},
            r"encoder 'hubert-large' has no CTC head",
        ),
        ({"projector": "ctc-compressor", "encoder": "fbank"}, r"encoder 'fbank' has no CTC head"),
        (
            {"projector": "ctc-compressor", "features.layer": 2},
            r"features\.layer is 2.* Set features\.layer to last",
        ),
        (
            {**LIVE, "encoder": "whisper-tiny"},
            r"encoder 'whisper-tiny' has no CTC head, and train\.ctc_weight is 0\.5",
        ),
    ],
)
def test_what_has_no_units_to_give_stops_every_stage(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_names(read_overridden_params(changed, "overrides"))


@pytest.mark.parametrize(
    "changed",
    [
        {"projector": "ctc-compressor"},
        {"projector": "ctc-compressor", "encoder": "hubert-large-ls960-ft"},
        {"projector": "linear", "encoder": "whisper-tiny", "features.layer": 2},
        LIVE,
    ],
)
def test_what_has_passes(changed: dict[str, Any]) -> None:
    check_names(read_overridden_params(changed, "overrides"))


def test_a_folder_that_says_nothing_of_its_shape_is_left_to_the_training() -> None:
    assert has_ctc_by_entry(EncoderSource("folder", folder="mine")) is None
    assert has_ctc_by_entry(
        EncoderSource("folder", folder="mine", shape={"architectures": ["WavLMForCTC"]})
    )
