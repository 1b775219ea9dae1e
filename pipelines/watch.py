"""Follows a run on a cluster: a live table in a terminal, else a line for every change."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import kfp_server_api
import urllib3
from kfp import Client
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from pipelines import executor_logs, logs
from pipelines.client import Connection
from pipelines.progress import (
    CACHED,
    ENDED,
    GOOD,
    NOT_BEGUN,
    RETRYING,
    STARTING,
    WAITING,
    Row,
    rows,
)
from pipelines.stages import RETRIED, Stage

COLOURS = {
    GOOD: "green",
    CACHED: "green",
    "FAILED": "red",
    "CANCELED": "red",
    "RUNNING": "yellow",
    STARTING: "yellow",
    WAITING: "magenta",
    RETRYING: "magenta",
    "SKIPPED": "dim",
}
NOT_RETRIED = (
    "it has retries and was not started again: the installation's policy; see manifests/README.md"
)
PATIENCE = 10  # failed requests in a row after which the run is given up
LONG = 60  # seconds that a pod may wait before the command that tells why is shown


def follow(server: Connection, run_id: str, stages: Sequence[Stage], *, poll: float) -> str:
    """Waits for the run's end and returns its state. `poll` is the seconds between two requests.

    Raises the client's exception when the server refuses, or has failed to answer PATIENCE times.
    """
    console = Console()
    shown: dict[str, tuple[str, int | None]] = {}
    said: set[str] = set()
    newest = logs.Newest(server.client, server.home)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            run = _request(server.client, run_id, poll)
            now = rows(run, stages)
            newest.look(run, now)
            notes = _notes(now, run_id, server.home)
            if console.is_terminal:
                live.update(_table(run, now, notes, newest.lines), refresh=True)
            else:
                _say_changes(now, shown)
                news = notes | _figures(now, newest.lines)
                _say(*(text for key, text in news.items() if key not in said))
                said |= {*news}
            if run.state in ENDED:
                break
            time.sleep(poll)
    if run.state != GOOD:
        _say(*_failure(server, run, run_id, now))
    return str(run.state)


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


def _table(run: Any, now: Sequence[Row], notes: dict[str, str], newest: Mapping[str, str]) -> Table:
    table = Table(
        *("stage", "state", "seconds", "attempt"),
        Column("newest line", no_wrap=True, overflow="ellipsis"),
        title=f"{run.display_name or run.run_id}: {run.state or 'PENDING'}",
        caption="\n".join(notes.values()) or None,
        caption_justify="left",
    )
    for row in now:
        colour = COLOURS.get(row.state, "default")
        attempt = "" if row.attempt is None else str(row.attempt)
        line = escape(newest.get(row.stage.key, ""))
        table.add_row(row.stage.name, f"[{colour}]{row.state}[/]", _seconds(row), attempt, line)
    return table


def _say_changes(now: Sequence[Row], shown: dict[str, tuple[str, int | None]]) -> None:
    for row in now:
        change = row.state, row.attempt
        if row.state != NOT_BEGUN and shown.get(row.stage.key) != change:
            shown[row.stage.key] = change
            attempt = f" attempt {row.attempt}" if (row.attempt or 1) > 1 else ""
            _say(f"{row.stage.name} {row.state} {_seconds(row)}".rstrip() + attempt)


def _figures(now: Sequence[Row], newest: Mapping[str, str]) -> dict[str, str]:
    """A line for every running stage, known by its text: it is said when it changes."""
    lines = [f"{row.stage.name}: {newest[row.stage.key]}" for row in now if row.stage.key in newest]
    return {line: line for line in lines}


def _notes(now: Sequence[Row], run_id: str, namespace: str) -> dict[str, str]:
    """A line for every pod that has waited for long, under the name of its attempt."""
    notes = {}
    for row in now:
        if row.waiting is not None and row.waiting >= LONG:
            command = logs.why(run_id, row.pod, namespace)
            verb = "waits" if row.state == WAITING else "or a stage begun with it waits"
            text = f"{row.stage.name}: {verb} for a pod since {row.waiting:.0f} s; why: {command}"
            notes[f"{row.stage.key} {row.attempt}"] = text
    return notes


def _failure(server: Connection, run: Any, run_id: str, now: Sequence[Row]) -> list[str]:
    """The failed stages' last words, the commands for more, and how the run goes on."""
    lines = []
    for row in (row for row in now if row.state == "FAILED"):
        attempts = f" in attempt {row.attempt}" if row.attempt else ""
        lines.append(f"{row.stage.name} failed{attempts}{f': {row.error}' if row.error else ''}")
        lines += [f"  | {line}" for line in _log(server, run, row)]
        if row.attempt == 1 and row.stage.template == RETRIED:
            lines.append(f"  {NOT_RETRIED}")
        lines.append(f"  log:    {logs.more(run_id, row.pod, server.home)}")
        lines.append(f"  events: {logs.why(run_id, row.pod, server.home)}")
    if not lines:
        lines.append(f"no stage failed by itself; {logs.more(run_id, None, server.home)}")
    profile = f" --namespace {server.namespace}" if server.namespace else ""
    again = f"python -m pipelines.submit --retry {run_id} --host {server.host}{profile} --watch"
    return [*lines, f"to go on from there: {again}"]


def _log(server: Connection, run: Any, row: Row) -> list[str]:
    """The last lines of a stage, by its pod or, once that is gone, as they were kept."""
    where = server.client, run
    pod = logs.sources(*where, row.pod, server.home) if row.pod else []
    return logs.first([*pod, *executor_logs.sources(*where, row, server.home)])


def _say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


def _seconds(row: Row) -> str:
    seconds = row.waiting if row.state == WAITING and row.waiting is not None else row.seconds
    return "" if seconds is None else f"{seconds:.0f}"
