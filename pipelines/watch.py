"""Follows a run on a cluster: a live table in a terminal, else a line for every change."""

import time
from datetime import UTC, datetime
from typing import Any

import kfp_server_api
import urllib3
from kfp import Client
from rich.console import Console
from rich.live import Live
from rich.table import Table

GOOD = "SUCCEEDED"
ENDED = (GOOD, "FAILED", "SKIPPED", "CANCELED")
COLOURS = {GOOD: "green", "FAILED": "red", "RUNNING": "yellow", "SKIPPED": "dim", "CANCELED": "red"}
PATIENCE = 10  # failed requests in a row after which the run is given up


def follow(client: Client, run_id: str, *, poll: float) -> str:
    """Waits for the run's end and returns its state. `poll` is the seconds between two requests.

    Raises the client's exception when the server refuses, or has failed to answer PATIENCE times.
    """
    console = Console()
    shown: dict[str, str] = {}
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            run = _request(client, run_id, poll)
            if console.is_terminal:
                live.update(_table(run), refresh=True)
            else:
                _say_changes(run, shown)
            if run.state in ENDED:
                break
            time.sleep(poll)
    for task in _details(run):
        if task.state == "FAILED" and task.error and task.error.message:
            console.print(f"{task.display_name}: {task.error.message}", markup=False)
    return run.state


def _request(client: Client, run_id: str, poll: float) -> Any:
    """The run as it is now; repeats a request that got no answer, or an error of the server's."""
    for attempt in range(PATIENCE + 1):
        try:
            return client.get_run(run_id)
        except urllib3.exceptions.HTTPError:
            if attempt == PATIENCE:
                raise
        except kfp_server_api.ApiException as error:
            if attempt == PATIENCE or error.status < 500:
                raise
        time.sleep(poll)
    raise AssertionError("unreachable")


def _details(run: Any) -> list[Any]:
    return (run.run_details and run.run_details.task_details) or []


def _tasks(run: Any) -> list[Any]:
    """The run's stages in the order in which they began, without the pods that KFP adds to each."""
    named = [
        task
        for task in _details(run)
        if task.display_name not in ("root", "executor")
        and not task.display_name.endswith("-driver")
    ]
    return sorted(named, key=lambda task: task.start_time or datetime.max.replace(tzinfo=UTC))


def _table(run: Any) -> Table:
    table = Table("stage", "state", "seconds", title=f"{run.display_name}: {run.state}")
    for task in _tasks(run):
        colour = COLOURS.get(task.state, "default")
        table.add_row(task.display_name, f"[{colour}]{task.state}[/]", _seconds(task))
    return table


def _say_changes(run: Any, shown: dict[str, str]) -> None:
    for task in _tasks(run):
        key = task.task_id or task.display_name
        if shown.get(key) != task.state:
            shown[key] = task.state
            print(f"{task.display_name} {task.state} {_seconds(task)}".rstrip(), flush=True)


def _seconds(task: Any) -> str:
    if task.start_time is None:
        return ""
    end = task.end_time if task.state in ENDED else datetime.now(UTC)
    return "" if end is None else f"{(end - task.start_time).total_seconds():.0f}"
