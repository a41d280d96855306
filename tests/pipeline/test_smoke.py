"""The complete pipeline at smoke size, through ``dvc``: its outputs, and which stages a change
reruns.
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from .project import Project

ROLES = ("train", "dev", "test", "nonspeech-train", "nonspeech-test")


def test_all_stages_ran_and_wrote_their_outputs(smoke: Project) -> None:
    """Scores of every set and system with the same keys; the LLM is far better than silence and
    chance.
    """
    scores = smoke.scores()
    assert set(scores) == {"smoke-dev", "smoke-test", "smoke-synthetic-test"}
    for name in ("smoke-dev", "smoke-test"):
        assert set(scores[name]) == {"free", "constrained", "ctc"}
        for score in scores[name].values():
            assert set(score) == {
                "wer",
                "wer_low",
                "wer_high",
                "interval_by",
                "substitutions",
                "deletions",
                "insertions",
                "words",
                "cer",
                "text_form",
                "forms",
                "insertion_kinds",
                "at_limit",
            }
            assert score["wer_low"] <= score["wer"] <= score["wer_high"]
            assert sum(score["insertion_kinds"].values()) == score["insertions"]
            errors = score["substitutions"] + score["deletions"] + score["insertions"]
            assert abs(score["wer"] - errors / score["words"]) < 1e-6
    assert scores["smoke-test"]["free"]["wer"] < 0.7
    assert scores["smoke-test"]["free"]["wer"] < scores["smoke-test"]["ctc"]["wer"] < 0.95
    for score in scores["smoke-synthetic-test"].values():
        assert set(score) == {
            "text_rate",
            "clips",
            "characters_a_minute",
            "insertion_kinds",
            "at_limit",
        }
        assert score["clips"] == 40


def test_counts_add_up_from_manifest_to_hypotheses(smoke: Project) -> None:
    """No utterance is missing: manifest = shards = features = hypotheses of each system."""
    import pyarrow.parquet as pq

    for role in ROLES:
        for manifest in sorted((smoke.folder / "data/corpus" / role).glob("*/manifest.parquet")):
            source = manifest.parent.name
            ids = set(pq.read_table(manifest)["id"].to_pylist())
            for stage in ("shards", "features"):
                assert (
                    set(
                        pq.read_table(
                            smoke.folder / "data" / stage / role / source / "index.parquet"
                        )["id"].to_pylist()
                    )
                    == ids
                )
            if role in ("dev", "test", "nonspeech-test"):
                rows = pq.read_table(
                    smoke.folder / f"data/decode/{role}/{source}.parquet"
                ).to_pylist()
                for system in ("free", "constrained", "ctc"):
                    assert sorted(row["id"] for row in rows if row["system"] == system) == sorted(
                        ids
                    )


def test_a_second_repro_does_nothing_and_leaves_git_clean(smoke: Project, tmp_path: Path) -> None:
    project = smoke.copy(tmp_path / "project")
    assert "Data and pipelines are up to date" in project.dvc("repro")
    changed = project.run("git", "status", "--porcelain").stdout.split()
    assert set(changed[1::2]) <= {"dvc.lock", "metrics/"}, changed


def test_runtime_settings_leave_the_status_clean(smoke: Project, tmp_path: Path) -> None:
    settings = {
        "LIBRETTO_WORKERS": "1",
        "LIBRETTO_DEVICE": "cpu",
        "LIBRETTO_WORK_GB": "7",
        "LIBRETTO_MODELS": "/nowhere",
    }
    assert "up to date" in smoke.copy(tmp_path / "project").dvc("status", **settings)


def test_provenance_does_not_depend_on_the_machine(smoke: Project) -> None:
    """Hashed outputs name no host, no time and no absolute path; what differs between runs is in
    runs/.
    """
    for path in smoke.folder.glob("data/*/**/inputs.json"):
        assert str(smoke.folder) not in path.read_text() and str(smoke.work) not in path.read_text()
    records = [json.loads(path.read_text()) for path in smoke.folder.glob("runs/*/*.json")]
    assert {"train", "decode", "features@train"} <= {record["stage"] for record in records}
    assert all(record["seconds"] >= 0 and record["host"] for record in records)


def test_the_table_names_every_set_and_system(smoke: Project) -> None:
    import sys

    output = smoke.run(sys.executable, "-m", "components.score", "table").stdout
    for word in (
        "smoke-test",
        "constrained",
        "ctc",
        "smoke-synthetic-test",
        "train",
        "models/bridge",
    ):
        assert word in output


def test_another_llm_reruns_only_the_stages_that_depend_on_it(
    smoke: Project, tmp_path: Path
) -> None:
    """``dvc exp run -S llm=…``, and ``dvc exp show`` lists both."""
    project = smoke.copy(tmp_path / "project")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "run")
    head = project.hashes()["models/ctc"]
    output = project.dvc("exp", "run", "-S", "llm=phi-smoke", "-n", "phi")
    assert project.ran(output) == {"llm", "ctc", "train", "decode", "score", "report"}
    # a bridge may take the LLM's tokens as units of the head; this one does not
    assert project.hashes()["models/ctc"] == head
    baselines = json.loads(project.dvc("exp", "show", "--json"))
    names = {
        experiment["name"]
        for baseline in baselines
        for experiment in baseline.get("experiments") or ()
    }
    assert "phi" in names
    rows = [
        baseline["data"]["metrics"]["metrics/score.json"]["data"]
        for baseline in baselines
        if baseline["rev"] != "workspace"
    ]
    assert rows[0]["smoke-test"]["free"]["words"] == project.scores()["smoke-test"]["free"]["words"]


def test_a_new_test_source_reruns_nothing_of_training(smoke: Project, tmp_path: Path) -> None:
    import sys

    project = smoke.copy(tmp_path / "project")
    path = project.folder / "catalogue/corpus.yaml"
    corpora = yaml.safe_load(path.read_text())
    first = corpora["spoken-smoke"]["test"]["smoke-test"]
    corpora["spoken-smoke"]["test"]["second-test"] = {**first, "seed": 5, "utterances": 20}
    path.write_text(yaml.safe_dump(corpora, sort_keys=False))
    project.run(sys.executable, "-m", "components.corpus", "scan")
    before = project.hashes()
    ran = project.ran(project.dvc("repro"))
    assert ran == {
        "corpus@test",
        "splits",
        "shards@test",
        "features@test",
        "decode",
        "score",
        "report",
    }
    after = project.hashes()
    assert {
        name: after[name] for name in ("models/encoder", "models/bridge", "data/shards/train")
    } == {name: before[name] for name in ("models/encoder", "models/bridge", "data/shards/train")}
    assert "second-test" in project.scores()


def test_an_edit_of_another_entry_or_a_card_reruns_nothing(smoke: Project, tmp_path: Path) -> None:
    project = smoke.copy(tmp_path / "project")
    path = project.folder / "catalogue/llm.yaml"
    entries = yaml.safe_load(path.read_text())
    entries["phi-tiny"]["source"]["training"]["steps"] = 7
    entries["llama-smoke"]["card"] = {"notes": "another"}
    path.write_text(yaml.safe_dump(entries, sort_keys=False))
    assert "up to date" in project.dvc("status")


def test_a_wrong_name_or_parameter_stops_before_any_work(smoke: Project, tmp_path: Path) -> None:
    project = smoke.copy(tmp_path / "project")
    project.set(llm="lama-smoke")
    output = project.dvc("repro", check=False)
    assert "lama-smoke" in output and not project.ran(output) & {"train", "decode"}
    project.set(llm="llama-smoke", train__curriculum__0__stepps=3)
    output = project.dvc("repro", check=False)
    assert "stepps" in output and "steps" in output


def test_a_comment_in_the_code_relinks_finished_work(smoke: Project, tmp_path: Path) -> None:
    """The stage runs again, but every unit comes from the work cache: same outputs, and nothing
    after it runs.
    """
    project = smoke.copy(tmp_path / "project")
    path = project.folder / "components/train/stage.py"
    path.write_text(path.read_text() + "\n# a remark\n")
    before = project.hashes()
    assert project.ran(project.dvc("repro")) == {"train"}
    assert project.hashes() == before
