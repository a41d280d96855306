"""Real recordings through the real stages: excerpts of LibriSpeech, and an encoder from a local
folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from .project import Project

SOURCES = {"train": ["train-clean-100"], "dev": ["dev-clean"], "test": ["test-clean", "test-other"]}


@pytest.mark.slow
def test_librispeech_runs_through_corpus_shards_and_features(
    smoke: Project, recordings: Path, tmp_path: Path
) -> None:
    """All utterances and their FLAC bytes are in the shards, and a checkpoint from a folder works
    like one that a stage trained.
    """
    project = smoke.copy(tmp_path / "project")
    encoders = project.folder / "catalogue/encoder.yaml"
    entries = yaml.safe_load(encoders.read_text())
    entries["from-folder"] = {
        "source": {"kind": "folder", "folder": "encoder"},
        "numerics": entries["ctc-smoke"]["numerics"],
        "lora": entries["ctc-smoke"]["lora"],
    }
    encoders.write_text(yaml.safe_dump(entries, sort_keys=False))
    project.set(corpus="librispeech-excerpt", encoder="from-folder")
    settings = {
        "LIBRETTO_ROOT_LIBRISPEECH": str(recordings / "real-librispeech"),
        "LIBRETTO_MODELS": str(smoke.folder / "models"),
    }
    project.run(sys.executable, "-m", "components.corpus", "scan", **settings)
    project.dvc("repro", "features@train", "features@dev", "features@test", **settings)
    for role, names in SOURCES.items():
        for name in names:
            rows = pq.read_table(
                project.folder / f"data/corpus/{role}/{name}/manifest.parquet"
            ).to_pylist()
            assert (
                pq.read_table(
                    project.folder / f"data/corpus/{role}/{name}/rejects.parquet"
                ).num_rows
                == 0
            )
            recorded = sorted((recordings / "real-librispeech" / name).glob("*/*/*.flac"))
            assert [row["id"] for row in rows] == [
                path.stem for path in sorted(recorded, key=lambda path: path.stem)
            ]
            index = pq.read_table(
                project.folder / f"data/features/{role}/{name}/index.parquet"
            ).to_pylist()
            assert {row["id"] for row in index} == {row["id"] for row in rows}
            # 16 kHz at a hop of 160 samples, and two halvings: 40 ms a frame.
            assert all(abs(row["frames"] - row["samples"] / 640) <= 1 for row in index)
    first = pq.read_table(project.folder / "data/shards/dev/dev-clean/index.parquet").to_pylist()[0]
    tar = (project.folder / "data/shards/dev/dev-clean" / first["shard"]).read_bytes()
    original = next((recordings / "real-librispeech").rglob(f"{first['id']}.flac")).read_bytes()
    assert tar[first["offset"] : first["offset"] + first["size"]] == original
