"""The speech encoder, in each family: how many frames, whose frames, and what it
refuses to read.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCTC, AutoTokenizer, HubertConfig

from components.model.encoders.arithmetic import use_arithmetic
from components.model.encoders.convolutional import MaskedFamily
from components.model.encoders.encoder import SpeechEncoder
from components.model.encoders.filterbank import FilterbankFamily
from components.model.encoders.joined import JoinedFamily
from components.model.encoders.registry import FAMILIES, read_traits
from tests.checkpoints import ENCODERS, WAVEFORM, WITH_CTC, save_encoder
from tests.errors import refused

RATE = 16_000
# Samples from one frame to the next, and the fewest that give a frame: two log-mel frames where a
# variance is taken over them, one window of the spectrum, or the reach of the seven convolutions.
HOP = {"parakeet": 640, "ast": 1600, "fbank": 160} | dict.fromkeys(
    [*WAVEFORM, "whisper", "whisper-ast"], 320
)
LEAST = dict.fromkeys(ENCODERS, 400) | {"parakeet": 320, "fbank": 320}
GROUP_NORM = [family for family in WAVEFORM if family.endswith("group-norm")]
PADDED = [family for family in ENCODERS if family not in GROUP_NORM]
NO_WINDOW = ("whisper", "whisper-ast")  # they can leave out the padding of their windows
RUN = [*((family, "window") for family in ENCODERS), *((family, "none") for family in NO_WINDOW)]
# The fewest samples that give so many frames, by what stands before the layers: seven convolutions
# without padding, log-mel at 100 Hz and two convolutions that halve it, frames begun (Whisper,
# AST), whole steps of 10 ms.
FIRST = {family: lambda frames: 400 + 320 * (frames - 1) for family in WAVEFORM} | {
    "parakeet": lambda frames: 160 * (4 * (frames - 1) + 1),
    "whisper": lambda frames: 320 * (frames - 1) + 1,
    "whisper-ast": lambda frames: 320 * (frames - 1) + 1,
    "ast": lambda frames: 1600 * (frames - 1) + 1,
    "fbank": lambda frames: 160 * frames,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return {family: save_encoder(folder / family, family) for family in ENCODERS}


def wave(samples: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (
        0.2 * np.sin(np.arange(samples) * random.uniform(0.05, 0.5))
        + 0.05 * random.standard_normal(samples)
    ).astype(np.float32)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and float((one - other).norm() / other.norm()) < 1e-5


def lengths(family: str) -> list[int]:
    """From the shortest to 40 s, with those around the edges of frames, of windows and of what is
    left behind a window.
    """
    hop, least = HOP[family], LEAST[family]
    edges = [least, 2 * hop, 7 * hop, RATE, 30 * RATE]
    around = {edge + step for edge in edges for step in (-hop, -1, 0, 1, 159, 160, hop - 1, hop)}
    return sorted(
        {samples for samples in around if samples >= least}
        | {10 * RATE + 1, 20 * RATE + 399, 35 * RATE + 77, 40 * RATE}
    )


def steps(family: str) -> Iterator[tuple[int, int]]:
    """(frames, samples) of every number of frames up to 40 s: the fewest samples that give it and
    the most.
    """
    frames = 1
    while FIRST[family](frames) <= 40 * RATE:
        fewest, most = max(LEAST[family], FIRST[family](frames)), FIRST[family](frames + 1) - 1
        if fewest <= most:
            yield frames, fewest
            yield frames, most
        frames += 1


@pytest.mark.parametrize("family", ENCODERS)
def test_every_length_has_the_frames_of_its_arithmetic(
    family: str, folders: dict[str, Path]
) -> None:
    """At both edges of each number of frames, which leaves no length out."""
    encoder, known = SpeechEncoder(folders[family]), list(steps(family))
    assert [(encoder.count_frames(samples), samples) for _, samples in known] == known
    assert len({frames for frames, _ in known}) == pytest.approx(40 * encoder.frame_rate, abs=2)
    assert not any(encoder.count_frames(samples) for samples in range(LEAST[family]))


@pytest.mark.parametrize("family", [*WAVEFORM, "parakeet"])
def test_the_convolutions_themselves_give_so_many(family: str, folders: dict[str, Path]) -> None:
    """The network's own front, run for its shapes alone: both edges of the first numbers of frames,
    and of some up to 40 s.
    """
    family_of = SpeechEncoder(folders[family]).family
    assert isinstance(family_of, MaskedFamily)
    front = copy.deepcopy(
        family_of.body.subsampling if family == "parakeet" else family_of.body.feature_extractor
    ).to("meta")
    for frames, samples in steps(family):
        if frames > 20 and frames % 97:
            continue
        shape = (1, samples // 160, 40) if family == "parakeet" else (1, samples)
        given = front(torch.empty(shape, device="meta"))
        assert given.shape[1 if family == "parakeet" else 2] == frames, samples


@pytest.mark.parametrize(("family", "padding"), RUN)
def test_as_many_frames_come_as_are_told_before(
    family: str, padding: str, folders: dict[str, Path]
) -> None:
    encoder = SpeechEncoder(folders[family], padding=padding)
    for samples in lengths(family):
        told, frames = encoder.count_frames(samples), encoder([wave(samples)])[0]
        assert frames.shape == (told, encoder.width), samples
        assert told >= 1
        assert told == pytest.approx(samples / RATE * encoder.frame_rate, abs=1.25)
        assert torch.isfinite(frames).all(), samples


def test_every_family_of_the_registry_loads_and_describes_itself(folders: dict[str, Path]) -> None:
    loaded = {family: SpeechEncoder(folders[family]) for family in ENCODERS}
    families = {type(encoder.family) for encoder in loaded.values()}
    assert families == {*FAMILIES.values(), FilterbankFamily, JoinedFamily}
    for family, encoder in loaded.items():
        assert read_traits(folders[family]) == encoder.traits, family


@pytest.mark.parametrize("family", ENCODERS)
def test_the_width_is_told_without_weights(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(
        folders[family], tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors")
    )
    encoder = SpeechEncoder(folders[family])
    assert (
        read_traits(tmp_path / "bare").width == encoder.width == encoder([wave(RATE)])[0].shape[1]
    )


def test_the_width_is_told_where_the_folder_leaves_it_to_the_architecture(tmp_path: Path) -> None:
    """transformers writes what differs from the architecture's defaults, and no more."""
    HubertConfig().save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({key: said[key] for key in said if key != "hidden_size"})
    )
    assert read_traits(tmp_path).width == HubertConfig().hidden_size
    (tmp_path / "config.json").write_text(json.dumps({**said, "model_type": "hubret"}))
    with refused(None, "'hubret'", "'hubert'"):
        read_traits(tmp_path)


@pytest.mark.parametrize("family", [*WAVEFORM, "parakeet"])
def test_as_many_frames_are_told_as_the_network_gives_without_padding(
    family: str, folders: dict[str, Path]
) -> None:
    encoder = SpeechEncoder(folders[family])
    assert isinstance(encoder.family, MaskedFamily)
    for samples in [*lengths(family)[:30], 30 * RATE, 40 * RATE]:
        with torch.no_grad():
            given = encoder.family.body(
                **encoder.family.inputs([wave(samples)])
            ).last_hidden_state.shape[1]
        assert (
            0 <= given - encoder.count_frames(samples) <= (family == "parakeet")
        )  # its extractor hands over one more at times, masked


@pytest.mark.parametrize("family", ENCODERS)
def test_what_is_shorter_than_a_frame_is_refused(family: str, folders: dict[str, Path]) -> None:
    encoder = SpeechEncoder(folders[family])
    assert encoder.least_samples == LEAST[family]
    assert [encoder.count_frames(samples) for samples in (0, 1, LEAST[family] - 1)] == [0, 0, 0]
    with refused(None, str(LEAST[family] - 1), str(LEAST[family])):
        encoder([wave(LEAST[family] - 1)])
    assert encoder([]) == []


def in_any_batch(encoder: SpeechEncoder, waves: list[np.ndarray], batches: list[list[int]]) -> None:
    """Holds each of ``waves`` in each of ``batches`` (places in ``waves``) to its frames alone."""
    alone = [encoder([samples])[0] for samples in waves]
    for batch in batches:
        for place, together in zip(batch, encoder([waves[place] for place in batch]), strict=True):
            assert close(together, alone[place]), (batch, len(waves[place]))


@pytest.mark.parametrize(("family", "padding"), [each for each in RUN if each[0] in PADDED])
@pytest.mark.parametrize("layer", ["last", 0, 1])
def test_an_utterance_has_the_same_frames_alone_and_in_a_batch(
    family: str, padding: str, layer: int | str, folders: dict[str, Path]
) -> None:
    """From the shortest to one past a window of AST, in any order, beside longer and shorter ones
    and itself.
    """
    encoder = SpeechEncoder(
        folders[family], layer="last" if family == "fbank" else layer, padding=padding
    )
    lengths = (RATE // 2, 3 * RATE + 7, 800, RATE + 1, LEAST[family], 10 * RATE + 801)
    batches = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [4, 5], [2, 2, 1], [3, 0]]
    in_any_batch(encoder, [wave(samples, samples) for samples in lengths], batches)


@pytest.mark.parametrize("family", GROUP_NORM)
@pytest.mark.parametrize("layer", ["last", 0, 1])
def test_group_norm_takes_equal_lengths_alone(
    family: str, layer: int | str, folders: dict[str, Path]
) -> None:
    encoder = SpeechEncoder(folders[family], layer=layer)
    for samples in (LEAST[family], RATE, 3 * RATE + 7):
        in_any_batch(
            encoder, [wave(samples, seed) for seed in range(4)], [[0, 1, 2, 3], [3, 1], [2, 2, 0]]
        )
    with refused(None, "numerics.batching", "equal-length"):
        encoder([wave(RATE), wave(3 * RATE)])


@pytest.mark.parametrize("family", PADDED)
def test_the_others_bear_padding(family: str, folders: dict[str, Path]) -> None:
    assert not SpeechEncoder(folders[family]).needs_equal_lengths


@pytest.mark.parametrize("family", ENCODERS)
def test_every_layer_can_be_taken_and_no_other(family: str, folders: dict[str, Path]) -> None:
    sound, last = [wave(RATE)], SpeechEncoder(folders[family])([wave(RATE)])[0]
    if family == "fbank":
        with refused(None, "layer 0", "'last'"):
            SpeechEncoder(folders[family], layer=0)
        return
    taken = [SpeechEncoder(folders[family], layer=layer)(sound)[0] for layer in (0, 1, 2)]
    assert {each.shape for each in taken} == {last.shape}
    assert not any(close(taken[one], taken[other]) for one, other in ((0, 1), (0, 2), (1, 2)))
    # Families that normalise their output do so behind the last layer; transformers gives that as a
    # state for some alone.
    assert torch.equal(taken[2], last)
    for layer in (3, -1):
        with refused(None, f"layer {layer}", "0 to 2", "'last'"):
            SpeechEncoder(folders[family], layer=layer)


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_wanted_dtype_is_that_of_the_frames(
    family: str, dtype: str, folders: dict[str, Path]
) -> None:
    frames = SpeechEncoder(folders[family], dtype=dtype)([wave(RATE)])[0]
    assert frames.dtype == getattr(torch, dtype)
    exact = SpeechEncoder(folders[family])([wave(RATE)])[0]
    assert float((frames.float() - exact).norm() / exact.norm()) < (
        0.02 if dtype == "float16" else 0.15
    )


@pytest.mark.parametrize("family", [*WITH_CTC, *GROUP_NORM])
def test_weights_are_those_of_the_folder(family: str, folders: dict[str, Path]) -> None:
    encoder = SpeechEncoder(folders[family])
    assert isinstance(encoder.family, MaskedFamily)
    assert encoder.has_ctc == (family in WITH_CTC)
    auto = AutoModelForCTC if encoder.has_ctc else AutoModel
    plain = auto.from_pretrained(folders[family], local_files_only=True).eval()
    inputs, frames = encoder.family.inputs([wave(RATE)]), encoder([wave(RATE)])[0]
    if not encoder.family.uses_mask:
        del inputs["attention_mask"]
    with torch.no_grad():
        if not encoder.has_ctc:
            wanted, got = plain(**inputs).last_hidden_state[0], frames
        else:
            head = encoder.model.ctc_head if family == "parakeet" else encoder.model.lm_head
            wanted, got = plain(**inputs).logits[0], head(frames[None])[0]
    torch.testing.assert_close(got, wanted[: len(frames)], rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())
    assert not encoder.model.training


@pytest.mark.parametrize(
    "family", [family for family in ENCODERS if family not in ("fbank", "whisper-ast")]
)
def test_a_folder_that_lacks_weights_is_refused(family: str, tmp_path: Path) -> None:
    """transformers would draw them at random."""
    folder = save_encoder(tmp_path / "encoder", family)
    weights = load_file(folder / "model.safetensors")
    name = next(
        name
        for name in sorted(weights)
        if re.search(r"layers?\.1\.", name) and "decoder" not in name
    )
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with refused(None, "layers.1."):
        SpeechEncoder(folder)


@pytest.mark.parametrize("family", WAVEFORM)
def test_checkpoints_of_older_releases_are_read(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """They name the norm of the positional convolution otherwise, and some lack what only training
    uses.
    """
    shutil.copytree(folders[family], tmp_path / "old")
    named = {
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    }
    weights = {}
    for name, tensor in load_file(folders[family] / "model.safetensors").items():
        for new, old in named.items():
            name = name.replace(new, old)
        if not name.endswith("masked_spec_embed"):
            weights[name] = tensor
    assert any(name.endswith("weight_g") for name in weights)
    save_file(weights, tmp_path / "old/model.safetensors", metadata={"format": "pt"})
    assert torch.equal(
        SpeechEncoder(tmp_path / "old")([wave(RATE)])[0],
        SpeechEncoder(folders[family])([wave(RATE)])[0],
    )


@pytest.mark.parametrize("family", [family for family in WITH_CTC if family not in GROUP_NORM])
def test_ctc_text_is_the_best_unit_of_each_frame_joined(
    family: str, folders: dict[str, Path]
) -> None:
    encoder = SpeechEncoder(folders[family])
    assert isinstance(encoder.family, MaskedFamily)
    plain = AutoModelForCTC.from_pretrained(folders[family], local_files_only=True).eval()
    units = {
        place: unit
        for unit, place in json.loads((folders[family] / "vocab.json").read_text()).items()
    }
    waves = [wave(samples, samples) for samples in (800, RATE, 2 * RATE + 99)]
    frames = encoder(waves)
    texts = encoder.decode_ctc(frames)
    for samples, each, text in zip(waves, frames, texts, strict=True):
        with torch.no_grad():
            best = (
                plain(**encoder.family.inputs([samples])).logits[0, : len(each)].argmax(-1).tolist()
            )
        spelt = "".join(units[unit] for unit, _ in groupby(best) if units[unit] != "<pad>")
        assert text == " ".join(spelt.replace("|", " ").split())
    assert len(set(texts)) > 1
    assert encoder.decode_ctc([torch.zeros(0, 32)]) == [""]


def test_known_units_give_their_words(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = SpeechEncoder(folders["parakeet"])
    vocabulary = json.loads((folders["parakeet"] / "vocab.json").read_text())
    head = torch.nn.Identity()
    monkeypatch.setattr(encoder.model, "ctc_head", head)
    path = [
        "<pad>",
        "a",
        "a",
        "<pad>",
        "m",
        "|",
        "|",
        "b",
        "b",
        "<pad>",
        "b",
        "<pad>",
        "|",
        "e",
        "<pad>",
    ]
    frames = torch.nn.functional.one_hot(
        torch.tensor([vocabulary[unit] for unit in path]), len(vocabulary)
    ).float()
    assert encoder.decode_ctc([frames]) == ["am bb e"]
    assert encoder.decode_ctc([frames[:1]]) == [""]


@pytest.mark.parametrize("family", [family for family in ENCODERS if family not in WITH_CTC])
def test_an_encoder_without_a_head_has_no_text(family: str, folders: dict[str, Path]) -> None:
    encoder = SpeechEncoder(folders[family])
    with refused():
        encoder.decode_ctc(encoder([wave(RATE)]))


@pytest.mark.parametrize(
    "family", [family for family in ENCODERS if family not in ("fbank", "whisper-ast")]
)
def test_weights_that_are_pickled_alone_are_refused(family: str, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / family, family)
    (folder / "model.safetensors").unlink()
    torch.save(
        SpeechEncoder(save_encoder(tmp_path / "other", family)).model.state_dict(),
        folder / "pytorch_model.bin",
    )
    with refused(None, str(folder), "safetensors"):
        SpeechEncoder(folder)


def test_code_of_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    trap = tmp_path / "ran"
    (folder / "modeling_own.py").write_text(f"open({str(trap)!r}, 'w')\nclass Own: pass\n")
    config = json.loads((folder / "config.json").read_text())
    names = ("AutoConfig", "AutoModel", "AutoModelForCTC", "AutoFeatureExtractor", "AutoTokenizer")
    remote = {"auto_map": {name: "modeling_own.Own" for name in names}, "model_type": "own"}
    (folder / "config.json").write_text(json.dumps({**config, **remote}))
    with refused(None, str(folder)):
        SpeechEncoder(folder)
    assert not trap.exists()


@pytest.mark.parametrize(
    "missing", ["config.json", "preprocessor_config.json", "model.safetensors"]
)
def test_a_folder_that_lacks_a_file_is_refused(missing: str, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    (folder / missing).unlink()
    with refused(None, str(folder)):
        SpeechEncoder(folder)
    with refused(None, "nothing here"):
        SpeechEncoder(tmp_path / "nothing here")


def test_the_tokenizer_spells_what_it_was_given(folders: dict[str, Path]) -> None:
    units = AutoTokenizer.from_pretrained(folders["parakeet"], local_files_only=True)
    assert units.decode(units("amber juniper").input_ids, group_tokens=False) == "amber juniper"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "has_tf32"), [("float32", False), ("tf32", True)])
def test_convolutions_and_products_on_a_gpu_are_in_one_arithmetic(
    name: str, has_tf32: bool
) -> None:
    """torch's default is TF32 for convolutions alone; it is back afterwards, also after an
    error.
    """

    def read_settings() -> list[str]:
        operations: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]  # type: ignore[attr-defined]
        return [operation.fp32_precision for operation in operations]

    default, own = read_settings(), ["tf32" if has_tf32 else "ieee"] * 2
    assert default == ["none", "tf32"]
    with pytest.raises(KeyError), use_arithmetic(name, torch.device("cuda")):
        assert read_settings() == own
        with use_arithmetic("tf32", torch.device("cuda")):
            assert read_settings() == ["tf32"] * 2
        assert read_settings() == own
        raise KeyError
    assert read_settings() == default
    # The older interface reads what it did before.
    assert torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    with use_arithmetic(name, torch.device("cpu")):
        assert read_settings() == default


@pytest.mark.parametrize("arithmetic", ["tf32", "bfloat16"])
def test_a_processor_computes_as_without_the_arithmetic_of_a_gpu(
    arithmetic: str, folders: dict[str, Path]
) -> None:
    sound = [wave(RATE)]
    encoder = SpeechEncoder(folders["parakeet"], gpu_arithmetic=arithmetic)
    assert torch.equal(encoder(sound)[0], SpeechEncoder(folders["parakeet"])(sound)[0])
