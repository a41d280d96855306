"""The plan of the k-means that is fitted for discrete units, by figures calculated by hand."""

from __future__ import annotations

import pytest

from components.config.params import read_overridden_params
from components.plan.discrete_units import estimate_units
from components.plan.load import read_gpu
from components.plan.networks import read_networks
from components.plan.run import check_plan, plan_run
from tests.errors import refused
from tests.plan.test_head import audio
from tests.plan.test_plan import LARGE, load_of

NAMES = {
    "encoder": "hubert-base",
    "projector": "speechgpt-units",
    "llm": "tinyllama",
    "features.layer": 11,
}


@pytest.mark.parametrize(("hours", "sample_hours"), [(5.0, 5.0), (960.0, 10.0)])
def test_the_sample_is_in_memory_and_each_pass_reads_it(hours: float, sample_hours: float) -> None:
    """At most 10 h of 768 values at 50 Hz in fp32, 5.5 GB; 50 passes, 1,000 units."""
    params = read_overridden_params(NAMES, "overrides")
    load = estimate_units(params, read_networks(params), [audio(hours)], "float32")
    values = sample_hours * 3600 * 50 * 768
    assert load and load.peak_bytes == pytest.approx(1e9 + 4 * values)
    assert load.operations["float64"] == pytest.approx(50 * values * 1_000 * 2 * 2)
    seconds = 50 * values * 4_000 / (67e12 * 0.3)
    assert load.estimate_hours(read_gpu("h200")) == pytest.approx(seconds / 3600)


def test_live_frames_cost_the_encoder_for_the_sample() -> None:
    params = read_overridden_params({**NAMES, "features.mode": "live"}, "overrides")
    networks = read_networks(params)
    load = estimate_units(params, networks, [audio(960)], "float32")
    assert load and load.operations["float32"] == pytest.approx(
        2 * networks.encoder.num_parameters * 50 * 10 * 3600
    )
    other = read_overridden_params({**NAMES, "projector": "linear"}, "overrides")
    assert estimate_units(other, networks, [audio(960)], "float32") is None


def test_a_sample_that_is_too_large_stops_the_plan() -> None:
    """The hint names what it grows by."""
    plan = plan_run(read_overridden_params(NAMES, "overrides"), machine=LARGE)
    load = load_of("units", plan)
    plan.loads[:] = [load]
    small = [type(plan.memories[0])("a small card", load.peak_bytes / 2)]
    plan.memories[:] = small
    with refused("units", "hours of the projector's entry"):
        check_plan(plan)
