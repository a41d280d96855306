"""The plan of the CTC head that is trained on frozen frames."""

from __future__ import annotations

from dataclasses import replace

import pytest

from components.config.params import Params, read_overridden_params
from components.model.encoders.trained_head import FrameClassifier
from components.plan.head import count_head_parameters, estimate_head
from components.plan.networks import CHARACTERS, read_networks
from components.plan.speech import AudioAmount

HEADLESS = {"encoder": "wavlm-large", "projector": "linear"}


def audio(hours: float, role: str = "train") -> AudioAmount:
    return AudioAmount(role, "some", 3600 * hours, round(360 * hours), "")


def changed(params: Params, **settings: float) -> Params:
    return replace(params, ctc=replace(params.ctc, **settings))


@pytest.mark.parametrize("hidden", [0, 256])
def test_parameters_are_those_of_the_network(hidden: int) -> None:
    params = changed(read_overridden_params(HEADLESS, ""), hidden=hidden)
    networks = read_networks(params)
    head = FrameClassifier(networks.encoder.width, hidden, CHARACTERS)
    num_parameters = sum(parameter.numel() for parameter in head.parameters())
    assert count_head_parameters(params, networks) == num_parameters
    load = estimate_head(params, networks, [audio(10)], "float32")
    frames = 3 * 10 * 3600 * 50 / 0.95
    assert load and load.total_operations == pytest.approx(6 * num_parameters * frames, rel=1e-6)


def test_an_encoder_with_a_head_trains_none() -> None:
    params = read_overridden_params({}, "")
    networks = read_networks(params)
    assert estimate_head(params, networks, [audio(10)], "float32") is None
    inner = replace(params, features=replace(params.features, layer=2))
    assert estimate_head(inner, networks, [audio(10)], "float32")
    assert count_head_parameters(changed(inner, epochs=0), networks) == 0


def test_full_windows_have_frames_however_short_the_speech_is() -> None:
    """Three passes over 1,000 utterances of 10 s; a micro-batch has a window at least."""
    names = {"encoder": "whisper-tiny", "projector": "linear"}
    params = read_overridden_params({**names, "features.padding": "full-window"}, "")
    networks = read_networks(params)
    num_parameters = count_head_parameters(params, networks)
    small = changed(params, batch_seconds=20.0, micro_batches=1)
    load = estimate_head(small, networks, [audio(10 / 3.6)], "float32")
    assert load and load.total_operations == pytest.approx(
        6 * num_parameters * 3 * 1_000 * 1_500 / 0.95
    )
    values = 4 * num_parameters + 1_500 * (2 * networks.encoder.width + 4 * params.ctc.hidden)
    assert load.peak_bytes == pytest.approx(1e9 + 4 * values)


def test_no_more_speech_is_counted_than_is_drawn() -> None:
    """Live frames cost the encoder for that speech alone."""
    params = changed(read_overridden_params({**HEADLESS, "features.mode": "live"}, ""), hours=20)
    networks = read_networks(params)
    operations = [
        load.total_operations
        for hours in (10, 20, 40)
        if (load := estimate_head(params, networks, [audio(hours)], "float16"))
    ]
    assert operations[1] == pytest.approx(2 * operations[0])
    assert operations[2] == pytest.approx(operations[1])


def test_two_copies_of_an_utterance_cost_twice_as_much() -> None:
    params = read_overridden_params(HEADLESS, "")
    networks = read_networks(params)
    once, twice = (
        estimate_head(changed(params, consistency=weight), networks, [audio(10)], "float32")
        for weight in (0, 0.2)
    )
    assert once and twice and twice.total_operations == pytest.approx(2 * once.total_operations)
    assert twice.peak_bytes > once.peak_bytes
