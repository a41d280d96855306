"""Server, worker and deployments on this machine: ``python -m flows.serve [--server URL]
[--stop]``, or ``make serve``.

Starts what does not run yet: Prefect's server (on loopback unless ``--host`` says otherwise), the
work pool, the deployments of ``prefect.yaml``, the rule that ends runs whose process is gone, and a
worker. Server and worker go on when the terminal closes; their logs and process ids are in the work
cache, ``serve/``.
"""

from __future__ import annotations

import argparse
import ipaddress
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

POOL, PROCESSES = "libretto", "process"  # name and type of the work pool
HEARTBEAT_S = 30  # between two heartbeats of a run; Prefect accepts no less
SILENCE_S = 3 * HEARTBEAT_S  # without a heartbeat, after which a run counts as crashed
# In which server and worker may end by themselves; a worker gives its runs 30 of them.
GRACE_S = 45
START_S = 120  # in which the server must answer; the first start creates its database
RULE = "Runs without a sign of life have crashed"
PASSWORD = "PREFECT_SERVER_API_AUTH_STRING"
ENDED = ("Completed", "Failed", "Cancelled", "Crashed")


def build_address(host: str, port: int) -> str:
    """The address of the server's API."""
    return f"http://{host}:{port}/api"


def require_password(host: str) -> None:
    """Has the server and its clients use the password of ``PASSWORD``; raises InputError where
    there is none and ``host`` is not loopback: whoever reaches a server may run flows.
    """
    password = os.environ.get(PASSWORD, "")
    if password:
        os.environ.setdefault("PREFECT_API_AUTH_STRING", password)
    elif not is_loopback(host):
        raise InputError(
            f"The server would be open to everybody who reaches {host}.",
            subject="--host",
            hint=f"Set {PASSWORD} to name:password, and PREFECT_API_AUTH_STRING too for workers "
            "on other machines, or leave out --host.",
        )


def is_loopback(host: str) -> bool:
    """Whether an address or the name ``localhost`` is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_up(url: str) -> bool:
    """Whether a Prefect server answers at ``url``."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):  # http, see above # nosec B310
            return True
    except (urllib.error.URLError, OSError):
        return False


def start_server(host: str, port: int, folder: Path) -> None:
    """Starts the server and waits until it answers; raises TransientError if it does not, or
    ends.
    """
    # Without --background: with it the log is a pipe that nobody reads, and the first warning ends
    # the server.
    process = start_process(folder, "server", "start", "--host", host, "--port", str(port))
    end, url = time.monotonic() + START_S, build_address(host, port)
    while not is_up(url):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise TransientError(
                f"The server does not answer at {url}.",
                subject=url,
                hint=f"See {folder / 'server.log'}.",
            )
        time.sleep(0.5)


def create_crash_rule() -> None:
    """Has the server end runs that send no heartbeat: those whose machine or process was killed."""
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
        within=timedelta(seconds=SILENCE_S),
    )
    message = f"No sign of life for {SILENCE_S} s: its process is gone."
    action = ChangeFlowRunState(
        name="Crashed", state=StateType.CRASHED, message=message, force=True
    )
    with get_client(sync_client=True) as client:
        for automation in client.read_automations_by_name(RULE):
            client.delete_automation(automation.id)
        client.create_automation(AutomationCore(name=RULE, trigger=trigger, actions=[action]))


def start_process(folder: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Starts Prefect's ``name`` in a session of its own, with its log and its id in ``folder``."""
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


def find_process(folder: Path, name: str) -> int:
    """The process id of the server or worker that was started here, 0 if it is gone."""
    try:
        process_id = int((folder / f"{name}.pid").read_text())
        command = Path(f"/proc/{process_id}/cmdline").read_bytes()
    except (OSError, ValueError):
        return 0
    return process_id if f"prefect\0{name}\0".encode() in command else 0


def stop_process(folder: Path, name: str) -> bool:
    """Ends the server or worker that was started here: asks it to, and kills it after ``GRACE_S``
    seconds. Returns whether it ran.
    """
    end = time.monotonic() + GRACE_S
    process_id = find_process(folder, name)
    was_running = bool(process_id)
    if was_running:
        print(f"ending the {name}, at most {GRACE_S} s", flush=True)
        os.kill(process_id, signal.SIGTERM)
    while process_id := find_process(folder, name):
        if time.monotonic() > end:
            os.kill(process_id, signal.SIGKILL)
        time.sleep(0.2)
    (folder / f"{name}.pid").unlink(missing_ok=True)
    return was_running


def create_pool(log: Path) -> str:
    """The type of the work pool. A pool that does not exist is created: of processes, as many at
    once as this machine has GPUs.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            return client.read_work_pool(POOL).type
        except ObjectNotFound:
            run_prefect("work-pool", "create", POOL, "--type", PROCESSES, log=log)
    run_prefect("work-pool", "set-concurrency-limit", POOL, str(len(visible_gpus()) or 1), log=log)
    return PROCESSES


def start_services(url: str, host: str = "", port: int = 0) -> None:
    """Starts what the server at ``url`` lacks, and with a ``host`` the server itself; prints a line
    for each step, since the first start takes minutes on a slow machine.

    Raises TransientError if no server answers, and InputError if Prefect refuses a deployment.
    """
    folder = work_root() / "serve"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(PREFECT_API_URL=url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY=str(HEARTBEAT_S))
    if not is_up(url):
        if not host:
            raise TransientError(
                f"No server answers at {url}.", subject=url, hint="Start it, or leave out --server."
            )
        print(f"starting Prefect's server at {url} (log: {folder / 'server.log'})", flush=True)
        start_server(host, port, folder)
    print(f"creating the deployments of prefect.yaml in the pool '{POOL}'", flush=True)
    pool_type = create_pool(folder / "deploy.log")
    run_prefect("deploy", "--all", log=folder / "deploy.log")
    create_crash_rule()
    if pool_type == PROCESSES and not find_process(folder, "worker"):
        print(f"starting a worker (log: {folder / 'worker.log'})", flush=True)
        start_process(folder, "worker", "start", "--pool", POOL, "--type", PROCESSES)
    elif pool_type != PROCESSES:
        print(
            f"the pool '{POOL}' is of type {pool_type}: start its worker where that runs, "
            "docs/guide/deployments.md",
            file=sys.stderr,
        )


def stop_services() -> None:
    """Ends worker and server; a run is ended with its worker, and is marked so. Prints what
    ended.
    """
    for name in ("worker", "server"):
        has_ended = stop_process(work_root() / "serve", name)
        print(f"the {name} has ended" if has_ended else f"no {name} of this machine runs")


def run_prefect(*arguments: str, log: Path) -> None:
    """Runs a command of Prefect; raises InputError with its last line if it fails."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream:
        stream.write(done.stdout + done.stderr)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        words = f"prefect {' '.join(arguments)}"
        raise InputError(f"'{words}' failed: {lines[-1]}", subject=words, hint=f"See {log}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Starts or ends the services from the command line; returns the exit code."""
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
        help=f"where the server listens; beyond loopback it needs a password, {PASSWORD}",
    )
    parser.add_argument("--port", type=int, default=4200)
    options = parser.parse_args(arguments)
    try:
        if options.stop:
            stop_services()
            return 0
        if not options.server:
            require_password(options.host)
        url = options.server or build_address(options.host, options.port)
        start_services(url, *(() if options.server else (options.host, options.port)))
    except LibrettoError as error:
        print(f"serve: {error}", file=sys.stderr)
        return error.exit_code
    print(f"The page: {url.removesuffix('/api')}. For commands of Prefect in this shell:")
    print(f"export PREFECT_API_URL={url}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
