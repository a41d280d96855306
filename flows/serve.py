"""Server, worker and deployments on this machine: ``python -m flows.serve [--server URL]
[--stop]``, or ``make serve``.

Brings up what is not up yet: Prefect's server (on loopback unless ``--host`` says otherwise), the
work pool, the deployments of ``prefect.yaml``, the rule that ends runs whose process is gone, and a
worker. Server and worker go on when the terminal closes; their logs and process numbers lie in the
work cache, ``serve/``.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from components.config.errors import InputError, LibrettoError, TransientError
from components.runtime.devices import visible_gpus
from components.runtime.settings import work_root

POOL, PROCESSES = "libretto", "process"
HEARTBEAT = 30  # seconds between two signs of life of a run; Prefect takes no less
SILENCE = 3 * HEARTBEAT  # after so many without one a run counts as crashed
# seconds that server and worker have to end by themselves; a worker gives its runs 30 of them
GRACE = 45
STARTED = 120  # seconds in which the server must answer; the first start makes its database
RULE = "Runs without a sign of life have crashed"
ENDED = ("Completed", "Failed", "Cancelled", "Crashed")


def address(host: str, port: int) -> str:
    return f"http://{host}:{port}/api"


def is_up(url: str) -> bool:
    """Whether a Prefect server answers there."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def start_server(host: str, port: int, folder: Path) -> None:
    """Starts the server and waits until it answers; raises TransientError where it does not or
    ends.
    """
    # Not with --background: that leaves its log a pipe which nobody reads, and the first warning
    # then ends the server.
    process = start(folder, "server", "start", "--host", host, "--port", str(port))
    end = time.monotonic() + STARTED
    while not is_up(address(host, port)):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise TransientError(
                f"The server does not answer at {address(host, port)}.",
                hint=f"See {folder / 'server.log'}.",
            )
        time.sleep(0.5)


def make_rule() -> None:
    """Has the server end runs that give no sign of life: those whose machine or process
    was killed.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    beat = "prefect.flow-run.heartbeat"
    trigger = EventTrigger(
        after={beat},
        expect={beat, *(f"prefect.flow-run.{state}" for state in ENDED)},
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=SILENCE),
    )
    message = f"No sign of life for {SILENCE} s: its process is gone."
    action = ChangeFlowRunState(
        name="Crashed", state=StateType.CRASHED, message=message, force=True
    )
    with get_client(sync_client=True) as client:
        for held in client.read_automations_by_name(RULE):
            client.delete_automation(held.id)
        client.create_automation(AutomationCore(name=RULE, trigger=trigger, actions=[action]))


def start(folder: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Starts Prefect's ``name`` in a session of its own, its log and its number in ``folder``."""
    with (folder / f"{name}.log").open("a") as log:
        command = [sys.executable, "-m", "prefect", name, *arguments]
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    (folder / f"{name}.pid").write_text(str(process.pid))
    return process


def number(folder: Path, name: str) -> int:
    """The process number of the server or worker that was started here, 0 where it is gone."""
    try:
        found = int((folder / f"{name}.pid").read_text())
        command = Path(f"/proc/{found}/cmdline").read_bytes()
    except (OSError, ValueError):
        return 0
    return found if f"prefect\0{name}\0".encode() in command else 0


def stop(folder: Path, name: str) -> None:
    """Ends the server or worker that was started here: asked to, then killed after ``GRACE``
    seconds.
    """
    end = time.monotonic() + GRACE
    if found := number(folder, name):
        os.kill(found, signal.SIGTERM)
    while found := number(folder, name):
        if time.monotonic() > end:
            os.kill(found, signal.SIGKILL)
        time.sleep(0.2)
    (folder / f"{name}.pid").unlink(missing_ok=True)


def make_pool(log: Path) -> str:
    """The type of the work pool, which is made where there is none: of processes, as many at once
    as this machine has GPUs.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            return client.read_work_pool(POOL).type
        except ObjectNotFound:
            prefect("work-pool", "create", POOL, "--type", PROCESSES, log=log)
    prefect("work-pool", "set-concurrency-limit", POOL, str(len(visible_gpus()) or 1), log=log)
    return PROCESSES


def up(url: str, host: str = "", port: int = 0) -> None:
    """Brings up what the server at ``url`` lacks, and with a ``host`` the server itself."""
    folder = work_root() / "serve"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(PREFECT_API_URL=url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY=str(HEARTBEAT))
    if not is_up(url):
        if not host:
            raise TransientError(
                f"No server answers at {url}.", subject=url, hint="Start it, or leave out --server."
            )
        start_server(host, port, folder)
    kind = make_pool(folder / "deploy.log")
    prefect("deploy", "--all", log=folder / "deploy.log")
    make_rule()
    if kind == PROCESSES and not number(folder, "worker"):
        start(folder, "worker", "start", "--pool", POOL, "--type", PROCESSES)
    elif kind != PROCESSES:
        print(
            f"the pool '{POOL}' is of type {kind}: start its worker where that runs, "
            "docs/guide/deployments.md",
            file=sys.stderr,
        )


def down() -> None:
    """Ends worker and server; a run that works is ended with its worker, and is marked so."""
    for name in ("worker", "server"):
        stop(work_root() / "serve", name)


def prefect(*arguments: str, log: Path) -> None:
    """Runs a command of Prefect; raises InputError with the end of what it says where it fails."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream:
        stream.write(done.stdout + done.stderr)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise InputError(
            f"'prefect {' '.join(arguments)}' failed: {words[-1] if words else 'it said nothing'}",
            hint=f"See {log}.",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Brings up or ends, from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.serve", description="Server, worker and deployments on this machine."
    )
    parser.add_argument("--stop", action="store_true", help="end worker and server")
    parser.add_argument(
        "--server",
        default="",
        metavar="URL",
        help="of a server that runs already, http://…/api: none is started here",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="where the server listens; anything but loopback is open to that network",
    )
    parser.add_argument("--port", type=int, default=4200)
    options = parser.parse_args(arguments)
    try:
        if options.stop:
            down()
            return 0
        url = options.server or address(options.host, options.port)
        up(url, *(() if options.server else (options.host, options.port)))
    except LibrettoError as error:
        print(f"serve: {error}", file=sys.stderr)
        return error.exit_code
    print(f"export PREFECT_API_URL={url}\n{url.removesuffix('/api')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
