"""Writes a recipe's pipeline as the YAML that a cluster reads: `dist/<recipe>.yaml`.

The pipeline itself is in `llada.py`; `submit.py` sends it to a cluster.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import yaml
from kfp.compiler import Compiler

from components.failure import as_line, explain
from components.preflight.config import Recipe
from model.training.preemption import Stopped, stoppable
from pipelines import llada, nodes, pins, placement
from pipelines.overrides import choose
from pipelines.placement import ANYHOW, HOUR, Scheduling

UNPINNED = (
    "Without commits, so that a run of this file as it is takes what the Hub has that day (submit "
    "puts the commits into its run): "
)
POLICY = (
    f"started again, {placement.PAUSE} later: pods that were deleted or failed "
    "(policy Always, 'lastRetry.status == \"Error\" || asInt(lastRetry.exitCode) > 0'),\n"
    "  where the installation has manifests/survival; as KFP 2.17.0 installs itself (policy "
    "OnError), pods that were deleted alone.\n"
    "checkpoints: submit --pipeline-root s3://BUCKET/FOLDER keeps those of every training stage "
    "that names no place\n"
    "  in s3://BUCKET/FOLDER/checkpoints, submit --checkpoints URI in URI; then every training "
    f"stage has {placement.ATTEMPTS + 1} attempts."
)
"""What the compiled pipeline cannot say, and its table therefore must."""
SEVERAL = (
    "on several nodes: attempts and hours are those of the pod that starts the TrainJob and waits "
    "for it;\n  secrets and checkpoints are the nodes'."
)


def write(recipe: Recipe, file: Path, *, profile: str, scheduling: Scheduling = ANYHOW) -> None:
    """Compiles the recipe with the placement profile `profile` into `file`, always the same bytes.

    KFP's own comments list the defaults in an order that changes, so they are left out. The
    description says what a run of the file takes from the Hub without a commit.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    Compiler().compile(llada.build(recipe, profile=profile, scheduling=scheduling), str(file))
    documents = list(yaml.safe_load_all(file.read_text()))
    if branches := pins.unpinned(recipe):
        documents[0]["pipelineInfo"]["description"] += f"\n\n{UNPINNED}{pins.described(branches)}."
    file.write_text(yaml.safe_dump_all(documents, sort_keys=True))


def main() -> None:
    """The command line behind `make pipeline-compile`."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.compiler", description=__doc__)
    parser.add_argument("recipe", help="a recipe of pipelines/recipes/")
    parser.add_argument("--output", type=Path, default=Path("dist"), metavar="DIR")
    parser.add_argument("--placement", metavar="PROFILE", help=placement.HELP)
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE")
    parser.add_argument("--nodes", action="append", default=[], metavar="STAGE=N", help=nodes.HELP)
    options = parser.parse_args()
    try:
        recipe = choose(options.recipe, settings=options.set)
        profile = placement.profile(options.recipe, options.placement)
        several = nodes.numbers(options.nodes, recipe, profile)
        file = options.output / f"{options.recipe}.yaml"
        with stoppable():
            scheduling = Scheduling(resumes=placement.resumes(recipe), nodes=several)
            write(recipe, file, profile=profile, scheduling=scheduling)
    except Stopped as notice:
        _end(f"stopped: {notice}", notice.code)
    except ValueError as error:
        _end(f"error: {error}", 2)
    except OSError as error:
        _end(f"error: {explain(error)}", 1)
    print(file)
    if branches := pins.unpinned(recipe):
        print(f"{UNPINNED}{pins.described(branches)}")
    print(survival(recipe, profile, scheduling))


def survival(recipe: Recipe, profile: str, scheduling: Scheduling) -> str:
    """What each stage can outlive: its attempts, their hours, its secrets and its checkpoints."""
    lines = [("stage", "attempts", "hours each", "hours in all", "secrets", "checkpoints")]
    configs = {"preflight": None, **vars(recipe)}
    for name, config in configs.items():
        if name not in placement.STAGES or (config is None and name != "preflight"):
            continue
        stage = scheduling.of(placement.PROFILES[profile][name])
        kept = getattr(config, "checkpoint_uri", None) or "-"
        if name in scheduling.nodes:
            assert placement.JOB.shared is not None
            claim, directory = placement.JOB.shared
            kept = f"{directory}/checkpoints (claim {claim})" if kept == "-" else kept
            name = f"{name} on {scheduling.nodes[name]} nodes"
            stage = replace(placement.JOB, retries=stage.retries, secrets=stage.secrets)
        hours = f"{stage.window // HOUR}" if stage.retries else "-"
        secrets = " ".join(stage.secrets) or "-"
        lines.append((name, f"{stage.retries + 1}", f"{stage.hours}", hours, secrets, kept))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    return "\n".join([*rows, POLICY, *([SEVERAL] if scheduling.nodes else [])])


def _end(message: str, code: int) -> NoReturn:
    print(f"compile: {as_line(message)}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
