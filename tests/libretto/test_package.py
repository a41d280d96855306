"""The built package: what wheel and sdist hold, and that an installed one transcribes outside any
checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import soundfile

from components.audio.sound import RATE
from components.transcribe import Transcriber
from components.transcribe.export import export
from tests import world as tones
from tests.checkout import copy_checkout
from tests.conftest import REPOSITORY
from tests.transcribe.test_transcriber import save_bridge

pytestmark = pytest.mark.slow
BUILD = "import sys; from setuptools import build_meta; build_meta.{hook}(sys.argv[1])"
TEXT = "amber birch cedar"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Wheel and sdist, built from a copy of the files that Git tracks or would track."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    copy_checkout(source)
    for hook in ("build_sdist", "build_wheel"):
        done = subprocess.run(
            [sys.executable, "-c", BUILD.format(hook=hook), str(target)],
            cwd=source,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    return {"wheel": next(target.glob("*.whl")), "sdist": next(target.glob("*.tar.gz"))}


def test_the_wheel_holds_two_packages_and_the_command(distributions: dict[str, Path]) -> None:
    with zipfile.ZipFile(distributions["wheel"]) as wheel:
        names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"components", "libretto"}
    assert {"components/report/page.html", "libretto/py.typed"} <= set(names)


def test_the_sdist_holds_the_checkout(distributions: dict[str, Path]) -> None:
    with tarfile.open(distributions["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    missing = {name for name in filter(None, tracked) if (REPOSITORY / name).is_file()} - names
    assert not missing


@pytest.fixture
def exported(world: Path, tmp_path: Path) -> tuple[Path, str]:
    """An exported tiny model with its bases, and the text that it gives for ``TEXT``."""
    save_bridge()
    for stage in ("encoder", "llm"):
        shutil.copytree(
            Path("models") / stage,
            world / "checkpoints" / stage,
            ignore=shutil.ignore_patterns("inputs.json"),
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIBRETTO_MODELS", str(world / "checkpoints"))
        for stage in ("encoder", "llm"):
            tones.run(stage)
        save_bridge()
        export(tmp_path / "model", with_bases=True)
    text = Transcriber.load(constraints="free")(tones.tone(TEXT, 1)).text
    assert text
    return tmp_path / "model", text


def test_the_card_says_how_to_install_and_at_which_commit(exported: tuple[Path, str]) -> None:
    text = (exported[0] / "README.md").read_text()
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert f"git checkout {commit}" in text
    assert "pip install" in text
    assert "libretto transcribe" in text


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_an_installed_package_transcribes_outside_a_checkout(
    kind: str, distributions: dict[str, Path], exported: tuple[Path, str], tmp_path: Path
) -> None:
    model, text = exported
    environment_folder, folder = tmp_path / "environment", tmp_path / "elsewhere"
    folder.mkdir()
    venv.create(environment_folder, with_pip=False, symlinks=True)
    python = environment_folder / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    packages = sysconfig.get_paths()["purelib"]
    site = next(environment_folder.glob("lib/python*/site-packages"))
    # What the package depends on comes from the environment of this test: torch is large.
    (site / "dependencies.pth").write_text(f"{packages}\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), *install, distributions[kind]],
        check=True,
    )
    soundfile.write(folder / "talk.flac", tones.tone(TEXT, 1), RATE)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "LIBRETTO_MODELS")
    } | {"OMP_NUM_THREADS": "1", "LIBRETTO_WORK": str(tmp_path / "other-work")}

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    command = environment_folder / "bin" / "libretto"
    done = run(command, "transcribe", "talk.flac", "--model", model, "--set", "free")
    assert (done.returncode, done.stdout.strip()) == (0, text), done.stderr
    script = (
        "import sys, libretto, components\n"
        "assert all('site-packages' in each.__file__ for each in (libretto, components))\n"
        "print(libretto.load(sys.argv[1], constraints='free')('talk.flac').text)\n"
    )
    done = run(python, "-c", script, model)
    assert done.stdout.strip() == text, done.stderr
    refused = run(command, "compare", "llms")
    assert refused.returncode == 2
    assert "flows" in refused.stderr
