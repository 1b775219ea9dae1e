"""Plans a run before it is paid for: memory, hours, bytes and doubts of every stage, as a table.

Reads headers and listings only, and starts nothing. `plan_base` reads sizes, `plan_speed` the
measured speeds, `plan_stages` has the work of each stage, `plan_traffic` the bytes between them.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from google.protobuf.json_format import MessageToDict

from components.failure import as_line, explain
from components.preflight.config import Recipe
from components.preflight.memory import GIB
from model.options import check
from pipelines import llada, placement, plan_base, plan_speed, plan_stages, plan_traffic
from pipelines.overrides import choose
from pipelines.plan_base import Base
from pipelines.plan_speed import Speed
from pipelines.plan_stages import PROBLEMS, Stage
from pipelines.plan_traffic import Traffic

GB = 10**9
PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "loss", "rollout")
MOST = 4096  # GPUs of a stage


class Plan(NamedTuple):
    """All that is known before a run."""

    name: str
    profile: str
    base: Base
    speed: Speed
    data: dict[str, int | None]
    """Bytes of each part's sources; None where they cannot be listed."""
    stages: list[Stage]
    traffic: list[Traffic]
    warnings: list[str]


def plan(name: str, recipe: Recipe, profile: str, gpus: int | None = None) -> Plan:
    """The plan of a recipe in a placement profile, whose training stages have so many GPUs.

    Raises ValueError where the base cannot be read and is not a published model either.
    """
    base, data = plan_base.read(recipe.download), plan_base.data_sizes(recipe.download)
    return computed(name, recipe, profile, gpus, base, data)


def computed(
    name: str,
    recipe: Recipe,
    profile: str,
    gpus: int | None,
    base: Base,
    data: dict[str, int | None],
) -> Plan:
    """The plan of a recipe whose sizes are known; nothing is read from elsewhere."""
    limits = plan_stages.with_gpus(placement.limits(profile), gpus)
    has_gpus = any(limit.gpus for limit in limits.values())
    speed = plan_speed.measured(has_gpus)
    known = sum(size for size in data.values() if size)
    return Plan(
        name=name,
        profile=profile,
        base=base,
        speed=speed,
        data=data,
        stages=list(plan_stages.stages(recipe, base, limits, speed)),
        traffic=plan_traffic.traffic(_compiled(recipe, profile), recipe, base, known),
        warnings=list(plan_stages.warnings(recipe, base, limits)),
    )


def _compiled(recipe: Recipe, profile: str) -> dict[str, Any]:
    return MessageToDict(llada.build(recipe, profile=profile).pipeline_spec)


def render(plan: Plan) -> str:
    """The plan for a terminal of 110 columns, or a page."""
    base, speed = plan.base, plan.speed
    head = (
        f"{plan.name}: {base.parameters / 1e6:,.1f} million parameters, {base.size / GB:,.2f} GB, "
        f"context {base.context or 'unknown'}\nknown from {base.origin}; placement {plan.profile}\n"
        f"speeds measured on {speed.device} (benchmarks/RESULTS.md)"
    )
    data = ", ".join(
        f"{part} {'unknown' if size is None else f'{size / GB:,.2f} GB'}"
        for part, size in plan.data.items()
    )
    notes = [f"data as stored: {data}"] if data else []
    notes.append(
        "Tokens and hours are upper bounds: every sequence counts as long as it may become, and a "
        f"pass\ncommits one token. A task without a limit counts as {PROBLEMS} problems."
    )
    hours = sum(stage.hours for stage in plan.stages)
    spent = sum(stage.hours * max(stage.gpus, 1) for stage in plan.stages)
    taken, written = (sum(getattr(task, name) for task in plan.traffic) for name in WAYS)
    unit = "GPU hours" if any(stage.gpus for stage in plan.stages) else "hours"
    total = (
        f"in all: {_hours(hours)} h of stages that hold a model, {_hours(spent)} {unit}; "
        f"{taken / GB:,.1f} GB from the store, {written / GB:,.1f} GB to it"
    )
    warned = [f"warning: {line}" for line in plan.warnings] or ["no warnings"]
    parts = ["\n".join(notes), _memory(plan), _work(plan), _bytes(plan), total, "\n".join(warned)]
    return "\n\n".join([head, *parts])


WAYS = ("taken", "written")


def _memory(plan: Plan) -> str:
    """Memory of a process by part, in GiB."""
    rows: list[Sequence[str]] = [("stage, GiB each", "GPUs", *PARTS, "peak", "of", "fits")]
    for stage in plan.stages:
        parts = (_gib(stage.need.parts[name]) for name in PARTS)
        peak, usable = _gib(stage.need.peak), _gib(stage.limit.usable)
        fits = "yes" if stage.fits else "NO"
        rows.append((stage.name, str(stage.gpus), *parts, peak, usable, fits))
    return table(rows)


def _work(plan: Plan) -> str:
    rows = [
        (
            "stage",
            "trained",
            "tokens/step",
            "steps",
            "tokens",
            "tokens/s",
            "MFU",
            "hours",
            "checkpoints",
        )
    ]
    for stage in plan.stages:
        kept = f"{stage.kept} x {stage.checkpoint / GB:.2f} GB" if stage.kept else "-"
        rows.append(
            (
                stage.name,
                f"{stage.trained / 1e6:,.2f} M" if stage.trained else "-",
                f"{stage.tokens_per_step:,}",
                f"{stage.steps:,}",
                f"{stage.tokens / 1e6:,.1f} M",
                f"{stage.tokens_per_second:,.0f}",
                "-" if stage.mfu is None else f"{stage.mfu:.0%}",
                _hours(stage.hours),
                kept,
            )
        )
    return table(rows)


def _bytes(plan: Plan) -> str:
    rows: list[Sequence[str]] = [
        ("task, GB", "from the store", "to the store", "on the node's disk")
    ]
    for task in plan.traffic:
        figures = (f"{size / GB:,.2f}" for size in (task.taken, task.written, task.disk))
        rows.append((task.task, *figures))
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns as wide as their cells; all but the first column stand on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def as_json(plan: Plan) -> dict[str, Any]:
    """The figures of the plan: bytes, tokens, hours and shares of 1."""
    return {
        "recipe": plan.name,
        "placement": plan.profile,
        "parameters": plan.base.parameters,
        "base_bytes": plan.base.size,
        "base_origin": plan.base.origin,
        "context": plan.base.context,
        "measured_on": plan.speed.device,
        "data_bytes": plan.data,
        "stages": [
            {
                "stage": stage.name,
                "gpus": stage.gpus,
                "trained": stage.trained,
                "tokens_per_step": stage.tokens_per_step,
                "steps": stage.steps,
                "tokens": stage.tokens,
                "memory_bytes": dict(stage.need.parts),
                "peak_bytes": stage.need.peak,
                "usable_bytes": stage.limit.usable,
                "fits": stage.fits,
                "tokens_per_second": stage.tokens_per_second,
                "mfu": stage.mfu,
                "hours": stage.hours,
                "checkpoint_bytes": stage.checkpoint,
                "checkpoints_kept": stage.kept,
            }
            for stage in plan.stages
        ],
        "tasks": [
            {"task": task.task, "bytes_from_store": task.taken, "bytes_to_store": task.written}
            for task in plan.traffic
        ],
        "warnings": plan.warnings,
    }


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f}" if size >= GIB / 20 or not size else f"{size / GIB:.2f}"


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 1 else f"{hours:.2f}"


def main(words: Iterable[str] | None = None) -> None:
    """The command line behind `make pipeline-plan`: exit code 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.plan", description=__doc__)
    parser.add_argument("recipe", help="a recipe of pipelines/recipes.py")
    parser.add_argument("--preference", default="grpo")
    parser.add_argument("--gpus", metavar="N", help="GPUs of each training stage, a process each")
    parser.add_argument("--placement", metavar="PROFILE", help=placement.HELP)
    parser.add_argument("--json", action="store_true", help="figures in place of tables")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE")
    options = parser.parse_args(None if words is None else list(words))
    try:
        count = options.gpus
        good = count is None or (count.isdecimal() and 1 <= int(count) <= MOST)
        check("GPUS", count, good, f"1 to {MOST}")
        recipe = choose(options.recipe, preference=options.preference, settings=options.set)
        profile = placement.profile(options.recipe, options.placement)
        result = plan(options.recipe, recipe, profile, int(count) if count else None)
    except ValueError as error:
        _end(str(error), 2)
    except OSError as error:
        _end(explain(error), 1)
    print(json.dumps(as_json(result), indent=1) if options.json else render(result))


def _end(message: str, code: int) -> NoReturn:
    print(f"plan: error: {as_line(message)}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
