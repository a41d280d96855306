"""All of it on loopback: server, worker, deployments; schedules fire, runs end as what they are,
the page of the server shows them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.command import GUARD

from .conftest import NOTE_PY, ROOT, STAGES, processes

pytestmark = pytest.mark.slow
SECRETS = ("AKIAPLANTEDKEY00", "planted-secret-of-the-bucket", "hf_plantedtokenofthehub")
# A command in a terminal that is closed when the command has ended, which hangs up on all that the
# command left in it.
TERMINAL = [
    sys.executable,
    "-c",
    "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))",
]
# Not those of prefect.yaml: these run a small project.
DEPLOYMENTS = {
    "name": "small",
    "deployments": [
        {
            "name": name,
            "entrypoint": "flows/pipeline.py:pipeline",
            "parameters": {"plan": False, "in_workspace": False, **parameters},
            "schedules": schedules,
            "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
            "work_pool": {"name": "libretto"},
        }
        for name, parameters, schedules in (
            ("on-demand", {}, []),
            (
                "each-minute",
                {"targets": ["a"]},
                [{"cron": "* * * * *", "timezone": "UTC", "slug": "each-minute"}],
            ),
        )
    ],
}


class ServedWorkspace:
    """A workspace with a server and a worker, and requests to that server."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.url, self.port = folder, f"http://127.0.0.1:{port}/api", port

    def request(
        self, path: str, question: dict[str, Any] | None = None, method: str | None = None
    ) -> Any:
        data = None if question is None else json.dumps(question).encode()
        message = urllib.request.Request(
            f"{self.url}/{path}", data, {"Content-Type": "application/json"}, method=method
        )
        for _ in range(20):
            try:
                with urllib.request.urlopen(message, timeout=120) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                time.sleep(0.5)  # its database is busy; Prefect's own client tries again too
            except OSError as error:
                log = (self.folder.parent / "work/serve/server.log").read_text()
                raise AssertionError(f"the server is gone: {error}\n{log[-4000:]}") from error
        pytest.fail(f"the server is too busy for {path}")

    def run(self, deployment: str = "on-demand", **parameters: Any) -> str:
        """Starts a run; returns its id."""
        number = self.request(f"deployments/name/pipeline/{deployment}")["id"]
        return self.request(f"deployments/{number}/create_flow_run", {"parameters": parameters})[
            "id"
        ]

    def state(self, run: str) -> str:
        return self.request(f"flow_runs/{run}")["state_type"]

    def wait(self, condition: Callable[[], Any], seconds: float) -> Any:
        end = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < end, f"not within {seconds} s; {self.states()}"
            time.sleep(1)
        return result

    def states(self) -> list[tuple[str, str]]:
        return [
            (run["name"], run["state_name"])
            for run in self.request("flow_runs/filter", {"sort": "START_TIME_DESC"})
        ]

    def wait_for_state(self, run: str, *states: str, seconds: float = 240) -> str:
        return self.wait(lambda: (state := self.state(run)) in states and state, seconds)

    def order(self, stage: str, command: str) -> None:
        (self.folder.parent / f"order-{stage}").write_text(command)

    def edit(self, text: str) -> None:
        """Commits another input, so that there is something to do."""
        (self.folder / "input").write_text(text)
        subprocess.run(["git", "commit", "-qam", text], cwd=self.folder, check=True)

    def knobs(self) -> dict[str, int]:
        """The value with which ``side`` ran, by the locks of the last commit's experiments."""
        git = ["git", "-C", str(self.folder)]
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        refs = subprocess.run(
            [*git, "for-each-ref", "--format=%(refname)", f"refs/exps/{head[:2]}/{head[2:]}/"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        locks = {
            ref.rpartition("/")[2]: subprocess.run(
                [*git, "show", f"{ref}:dvc.lock"], capture_output=True, check=True
            ).stdout
            for ref in refs
        }
        return {
            name.split("-")[0]: yaml.safe_load(lock)["stages"]["side"]["params"]["knob.yaml"][
                "value"
            ]
            for name, lock in locks.items()
        }

    def at_work(self, stage: str) -> list[int]:
        """Ids of the stage's processes, once it obeys its order."""
        is_waiting = (self.folder.parent / f"order-{stage}").exists()
        return [] if is_waiting else processes(f"note.py {stage}", os.environ["PREFECT_HOME"])

    def serve(self, *arguments: str) -> str:
        command = [
            *TERMINAL,
            sys.executable,
            "-m",
            "flows.serve",
            "--port",
            str(self.port),
            *arguments,
        ]
        done = subprocess.run(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def worker(self) -> int:
        return int((self.folder.parent / "work/serve/worker.pid").read_text())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedWorkspace]:
    """``python -m flows.serve`` in a small project, ended with ``--stop``."""
    base = tmp_path_factory.mktemp("machine")
    folder = base / "project"
    folder.mkdir()
    stages = {**STAGES, "side": {**STAGES["side"], "params": [{"knob.yaml": ["value"]}]}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    (folder / "knob.yaml").write_text("value: 1\n")
    (folder / "note.py").write_text(NOTE_PY)
    (folder / "input").write_text("1")
    (folder / ".gitignore").write_text("/a\n/b-*\n/side\n__pycache__\n")
    (folder / "prefect.yaml").write_text(yaml.safe_dump(DEPLOYMENTS))
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "LIBRETTO_WORK": str(base / "work"),
            "NOTES": str(base / "notes"),
            "DVC_NO_ANALYTICS": "1",
            "DO_NOT_TRACK": "1",
            "DVC_GLOBAL_CONFIG_DIR": str(base / "dvc"),
            "DVC_SYSTEM_CONFIG_DIR": str(base / "dvc"),
            "DVC_SITE_CACHE_DIR": str(base / "dvc"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@b",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@b",
            "PREFECT_HOME": str(base / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "HF_TOKEN": SECRETS[2],
            "AWS_SECRET_ACCESS_KEY": SECRETS[1],
        }.items():
            patch.setenv(name, value)
        patch.delenv("PREFECT_API_URL", raising=False)
        for command in (
            "git init -q",
            f"{sys.executable} -m dvc init -q",
            "git add -A",
            "git commit -qm start",
        ):
            subprocess.run(command.split(), cwd=folder, check=True)
        machine = ServedWorkspace(folder, free_port())
        printed = machine.serve()
        assert f"http://127.0.0.1:{machine.port}" in printed
        try:
            yield machine
        finally:
            machine.serve("--stop")
            assert not has_answer(f"http://127.0.0.1:{machine.port}"), "the server has ended"


def test_a_schedule_starts_a_run_that_returns_an_experiment(machine: ServedWorkspace) -> None:
    def done() -> bool:
        runs = machine.request(
            "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        )
        return any(run["auto_scheduled"] for run in runs)

    machine.wait(done, 240)
    deployment = machine.request("deployments/name/pipeline/each-minute")
    machine.request(f"deployments/{deployment['id']}/pause_deployment", method="POST")
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "list", "--name-only"],
        cwd=machine.folder,
        capture_output=True,
        text=True,
    )
    assert listed.stdout.startswith("flow-")
    assert not (machine.folder / "a").exists(), "it worked in a clone"


def test_a_second_run_waits_and_an_experiment_meanwhile_has_its_own_record(
    machine: ServedWorkspace,
) -> None:
    machine.edit("2")
    machine.order("a", "sleep 40")
    first = machine.run()
    machine.wait(lambda: machine.at_work("a"), 180)
    second = machine.run()
    command = [
        sys.executable,
        "-m",
        "dvc",
        "exp",
        "run",
        "--name",
        "meanwhile",
        "-S",
        "knob.yaml:value=2",
        "side",
    ]
    experiment = subprocess.run(
        command, cwd=machine.folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert experiment.returncode == 0, experiment.stderr
    assert machine.state(first) == "RUNNING"
    assert machine.state(second) in ("SCHEDULED", "PENDING"), "it waits"
    assert machine.wait_for_state(first, "COMPLETED", "FAILED", "CRASHED") == "COMPLETED"
    assert machine.wait_for_state(second, "COMPLETED", "FAILED", "CRASHED") == "COMPLETED"
    assert machine.knobs() == {"meanwhile": 2, "flow": 1}, "the values of each run are its own"
    tasks = machine.request("task_runs/filter", {"flow_runs": {"id": {"any_": [first]}}})
    assert sorted(task["name"] for task in tasks) == ["a", "b@x", "b@y", "score", "side"]
    artifacts = machine.request(
        "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [first]}}}
    )
    assert {artifact["key"] for artifact in artifacts} >= {
        "stages",
        "score",
        "nonspeech",
        "parameters",
        "progress-a",
    }


def test_a_killed_worker_leaves_no_run_and_no_lock(machine: ServedWorkspace) -> None:
    machine.edit("3")
    machine.order("a", "sleep 600")
    run = machine.run(in_workspace=True)
    stage = machine.wait(lambda: machine.at_work("a"), 180)
    for process_id in [machine.worker, *descendants(machine.worker)]:
        os.kill(process_id, signal.SIGKILL)
    machine.wait(lambda: not any(Path(f"/proc/{process_id}").exists() for process_id in stage), 20)
    assert machine.wait_for_state(run, "CRASHED", seconds=240) == "CRASHED"

    machine.serve()  # a new worker, on the same server
    second = machine.run(in_workspace=True)
    assert machine.wait_for_state(second, "COMPLETED", "FAILED", "CRASHED") == "COMPLETED"


def test_the_page_of_a_run_has_its_tasks_and_artifacts(
    machine: ServedWorkspace, chromium: Any
) -> None:
    run = machine.run()
    assert machine.wait_for_state(run, "COMPLETED", "FAILED", "CRASHED") == "COMPLETED"
    context = chromium.new_context(viewport={"width": 1400, "height": 1000})
    page, broken = context.new_page(), []
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: broken.append(str(error)))
    tabs = page.locator("[role=tablist]")
    page.goto(f"http://127.0.0.1:{machine.port}/runs/flow-run/{run}")
    page.get_by_text(machine.request(f"flow_runs/{run}")["name"]).first.wait_for()
    page.get_by_text("Completed").first.wait_for()
    tabs.get_by_text("Task Runs", exact=True).click()
    for stage in ("a", "b@x", "b@y", "score", "side"):
        page.get_by_text(stage, exact=True).first.wait_for()
    tabs.get_by_text("Artifacts", exact=True).click()
    for key in ("score", "nonspeech", "stages", "parameters"):
        page.get_by_text(key, exact=True).first.wait_for()
    tabs.get_by_text("Logs", exact=True).click()
    page.get_by_text("the result is").first.wait_for()
    context.close()
    assert broken == []


def test_the_deployments_of_the_project_have_schedules_limits_and_parameters(
    machine: ServedWorkspace, tmp_path: Path
) -> None:
    shutil.copytree(
        ROOT / "flows", tmp_path / "flows", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "prefect.yaml", tmp_path)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    environment = {**os.environ, "PREFECT_API_URL": machine.url}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    flows = {
        "nightly": "pipeline",
        "weekly": "retrain",
        "on-demand": "compare",
        "recordings": "transcribe-batch",
    }
    assert [deployment["name"] for deployment in deployments] == list(flows)
    for deployment in deployments:
        name = deployment["name"]
        served = machine.request(f"deployments/name/{flows[name]}/{name}")
        assert served["parameters"] == deployment["parameters"]
        properties = served["parameter_openapi_schema"]["properties"]
        assert set(deployment["parameters"]) == set(properties), "all parameters of the flow"
        assert (
            served["tags"],
            served["work_pool_name"],
            served["global_concurrency_limit"]["limit"],
        ) == (deployment["tags"], "libretto", 1)
        assert [item["schedule"]["cron"] for item in served["schedules"]] == [
            item["cron"] for item in deployment.get("schedules", [])
        ]
        machine.request(f"deployments/{served['id']}", method="DELETE")


@pytest.fixture
def bucket(machine: ServedWorkspace) -> Iterator[str]:
    """An S3 server with a bucket, as the workspace's remote; its keys are the secrets. The server's
    address.
    """
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            machine.wait(lambda: has_answer(url), 60)
            urllib.request.urlopen(
                urllib.request.Request(f"{url}/results", method="PUT"), timeout=30
            ).close()
            for command in (
                "remote add --default results s3://results",
                f"remote modify results endpointurl {url}",
                f"remote modify --local results access_key_id {SECRETS[0]}",
                f"remote modify --local results secret_access_key {SECRETS[1]}",
            ):
                subprocess.run(
                    [sys.executable, "-m", "dvc", *command.split()], cwd=machine.folder, check=True
                )
            subprocess.run(["git", "commit", "-qam", "remote"], cwd=machine.folder, check=True)
            yield url
        finally:
            server.kill()


def has_answer(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def test_a_result_is_pushed_and_its_secrets_are_nowhere(
    machine: ServedWorkspace, bucket: str
) -> None:
    run = machine.run(push_results=True, commit=True)
    assert machine.wait_for_state(run, "COMPLETED", "FAILED", "CRASHED") == "COMPLETED"
    with urllib.request.urlopen(f"{bucket}/results?list-type=2", timeout=30) as answer:
        assert answer.read().count(b"<Key>files/md5/") >= 3

    config = machine.folder / ".dvc/config.local"
    assert SECRETS[1] in config.read_text()
    leaks = []
    for path in machine.folder.parent.rglob("*"):
        if not path.is_file() or path == config:
            continue
        data = path.read_bytes()
        leaks += [(str(path), secret) for secret in SECRETS if secret.encode() in data]
    history = subprocess.run(
        ["git", "log", "--all", "--patch", "--format=%B"],
        cwd=machine.folder,
        capture_output=True,
        check=True,
    ).stdout
    for kind in (
        "logs",
        "artifacts",
        "flow_runs",
        "task_runs",
        "deployments",
        "block_documents",
        "variables",
        "events",
    ):
        history += json.dumps(machine.request(f"{kind}/filter", {})).encode()
    assert not leaks and not [secret for secret in SECRETS if secret.encode() in history]


def descendants(process_id: int) -> list[int]:
    """Ids of the worker's processes: those that it started, down to the runs; not the commands that
    a run has started.
    """
    children = [
        int(child)
        for task in Path(f"/proc/{process_id}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    guard = GUARD.splitlines()[0].encode()
    processes = [
        child for child in children if guard not in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return [*processes, *(below for child in processes for below in descendants(child))]
