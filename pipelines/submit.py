"""Sends a recipe's pipeline to a Kubeflow cluster, runs it, and can follow it to its end.

The token comes from KFP_TOKEN or the pod's service account, never from an argument, which every
process of the machine can read. `client.py` reaches the server, `watch.py` follows the run.
"""

import argparse
import contextlib
import hashlib
import io
import json
import re
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import kfp_server_api
import yaml

from components import PROJECT
from components.container import IMAGE
from components.failure import as_line
from components.preflight.config import Recipe
from model.options import check
from model.training.config import Resumable
from model.training.preemption import Stopped, stoppable
from pipelines import nodes, pins, placement, watch
from pipelines.client import FAILURES, Connection, connect, explain
from pipelines.compiler import write
from pipelines.form import arguments, constants
from pipelines.overrides import choose, override
from pipelines.recipes import RECIPES
from pipelines.stages import Stage, stages

CHECKPOINTS = "of training, or none; by default PIPELINE_ROOT/checkpoints where that is s3://"
FIXED = re.compile(r"@sha256:[0-9a-f]{64}$|:[0-9a-f]{7,40}$")
"""How the name of an image ends that is always the same image: a digest, or a commit as its tag."""
MOVING = (
    f"IMAGE={IMAGE} may be another image tomorrow, and the server would still hand out the results "
    "of today's; name a digest or a commit, or submit with --no-cache"
)

UNKEPT = (
    "no checkpoints, so that training which is interrupted begins anew; keep them with "
    "--pipeline-root s3://BUCKET/FOLDER or --checkpoints URI, or say --checkpoints none"
)


def send(
    server: Connection, recipe: Recipe, base: Recipe, *, name: str, profile: str, **options: Any
) -> tuple[str, list[Stage]]:
    """Uploads `base` if the server lacks it, and runs it with the changes of `recipe`.

    A recipe with other stages, or with its base on a volume, has another graph, and is uploaded
    itself.

    `options`: experiment, service_account, pipeline_root, scheduling. Returns the id and stages.
    """
    base = base if _graph(base) == _graph(recipe) else recipe
    changed = {
        key: value for key, value in arguments(recipe).items() if value != arguments(base)[key]
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file = Path(folder) / f"{name}.yaml"
        write(base, file, profile=profile, scheduling=options["scheduling"])
        pipeline, version = _upload(server, file, name)
        experiment = server.client.create_experiment(
            options["experiment"], namespace=server.namespace
        )
        run = server.client.run_pipeline(
            experiment.experiment_id,
            f"{name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
            params=changed,
            pipeline_id=pipeline,
            version_id=version,
            pipeline_root=options["pipeline_root"],
            service_account=options["service_account"],
        )
        return run.run_id, stages(next(yaml.safe_load_all(file.read_text())))


def retry(server: Connection, run_id: str) -> list[Stage]:
    """Has the server go on with a run from its failed stages, and returns all of its stages.

    Raises ValueError for a run that the server does not have.
    """
    try:
        run = server.client.get_run(run_id)
    except kfp_server_api.ApiException as error:
        check("--retry", run_id, error.status != 404, "the id of a run, the last part of its page")
        raise
    reference = run.pipeline_version_reference
    check("--retry", run_id, reference is not None, "a run of an uploaded pipeline")
    version = server.client.get_pipeline_version(
        reference.pipeline_id, reference.pipeline_version_id
    )
    order = stages(version.pipeline_spec or {})
    server.client._run_api.run_service_retry_run(run_id)  # the SDK's client has no call for it
    return order


def _upload(server: Connection, file: Path, recipe: str) -> tuple[str, str]:
    """The ids of the pipeline and of the version with this content; uploads what is missing."""
    client = server.client
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    version = f"{recipe}-{digest}"
    matches = client.list_pipelines(
        filter=_named(PROJECT), namespace=server.namespace or ""
    ).pipelines
    if not matches:
        client.upload_pipeline(str(file), PROJECT, namespace=server.namespace)
        matches = client.list_pipelines(
            filter=_named(PROJECT), namespace=server.namespace or ""
        ).pipelines
    pipeline = matches[0].pipeline_id
    versions = client.list_pipeline_versions(pipeline, filter=_named(version)).pipeline_versions
    if not versions:
        versions = [client.upload_pipeline_version(str(file), version, pipeline_id=pipeline)]
    return pipeline, versions[0].pipeline_version_id


def _named(name: str) -> str:
    equal = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [equal]})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.submit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", nargs="?", help="a recipe of pipelines/recipes/")
    parser.add_argument(
        "--retry", metavar="RUN", help="go on with a failed run from where it failed"
    )
    parser.add_argument("--host", required=True, metavar="URL", help="the Kubeflow Pipelines API")
    parser.add_argument("--namespace", help="your profile, where the server has several users")
    parser.add_argument("--experiment", default="llada", help="where the UI lists the run")
    parser.add_argument("--preference", default="grpo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE")
    parser.add_argument("--placement", metavar="PROFILE", help=placement.HELP)
    parser.add_argument("--nodes", action="append", default=[], metavar="STAGE=N", help=nodes.HELP)
    parser.add_argument("--service-account", help="of the pods; by default the server's choice")
    parser.add_argument("--pipeline-root", metavar="URI", help="where artifacts go")
    parser.add_argument("--no-cache", action="store_true", help="run stages that ran before anew")
    parser.add_argument("--spot", action="store_true", help="allow machines that may be taken away")
    parser.add_argument("--queue", metavar="NAME", help="of Kueue, which then admits the pods")
    parser.add_argument("--priority", metavar="CLASS", help="of the run, in Kueue")
    parser.add_argument("--checkpoints", metavar="URI", help=CHECKPOINTS)
    pins.add_option(parser)
    parser.add_argument("--ui", metavar="URL", help="of the UI, where it is not the host")
    parser.add_argument("--watch", action="store_true", help="follow; exit code 1 if it fails")
    parser.add_argument("--poll", type=float, default=5.0, metavar="SECONDS")
    return parser


def main() -> None:
    """The command line: exit code 0, 1 for a run that failed, 2 if the run could not be sent."""
    options = _parser().parse_args()
    with stoppable():
        _submit(options)


def _submit(options: argparse.Namespace) -> None:
    try:
        server, run, order = _start(options)
    except ValueError as error:
        _end(str(error))
    except FAILURES as error:
        _end(explain(error, options.host))
    except Stopped as notice:
        print(f"submit: stopped: {notice}; the server may have the run already", file=sys.stderr)
        raise SystemExit(notice.code) from None
    url = f"{server.ui}/#/runs/details/{run}"
    print(url, flush=True)
    if not options.watch:
        return
    try:
        state = watch.follow(server, run, order, poll=options.poll)
    except FAILURES as error:
        _end(f"{explain(error, options.host)}; the run goes on: {url}")
    except Stopped as notice:
        print(f"\nthe run goes on: {url}", file=sys.stderr)
        raise SystemExit(notice.code) from None
    print(f"{state.lower()}: {url}")
    raise SystemExit(0 if state == watch.GOOD else 1)


def _start(options: argparse.Namespace) -> tuple[Connection, str, list[Stage]]:
    """The server, and the id and the stages of a run that this begins or goes on with."""
    if options.retry:
        alone = "a recipe to begin anew, or --retry RUN to go on with all that the run was sent"
        check("RECIPE", options.recipe, options.recipe is None and not options.set, alone)
        server = connect(options.host, options.namespace, options.ui)
        return server, options.retry, retry(server, options.retry)
    recipe = _resumable(
        choose(
            options.recipe, seed=options.seed, preference=options.preference, settings=options.set
        ),
        _checkpoints(options),
    )
    profile = placement.profile(options.recipe, options.placement)
    several = nodes.numbers(options.nodes, recipe, profile)
    server = connect(options.host, options.namespace, options.ui)
    recipe = recipe if options.no_pins else pins.pin(recipe)
    if FIXED.search(IMAGE) is None and not options.no_cache:
        print(f"submit: warning: {MOVING}", file=sys.stderr)
    if profile == "gpu" and options.checkpoints is None and not placement.resumes(recipe):
        print(f"submit: warning: {UNKEPT}", file=sys.stderr)
    run, order = send(
        server,
        recipe,
        RECIPES[options.recipe](),
        name=options.recipe,
        profile=profile,
        scheduling=_scheduling(options, recipe, several),
        experiment=options.experiment,
        service_account=options.service_account,
        pipeline_root=options.pipeline_root,
    )
    return server, run, order


def _graph(recipe: Recipe) -> tuple[dict[str, str], bool]:
    """What of a recipe its compiled graph has decided, which no value of the form changes."""
    return constants(recipe), placement.on_volume(recipe.download)


def _checkpoints(options: argparse.Namespace) -> str | None:
    """Where training keeps its states: named, or in the store of the artifacts where it is S3."""
    if options.checkpoints is not None:
        return None if options.checkpoints == "none" else str(options.checkpoints)
    root = options.pipeline_root or ""
    return f"{root.rstrip('/')}/checkpoints" if root.startswith("s3://") else None


def _resumable(recipe: Recipe, place: str | None) -> Recipe:
    """The recipe with the place of checkpoints in the training stages that name none."""
    if place is None:
        return recipe
    stages = [
        name
        for name, config in vars(recipe).items()
        if isinstance(config, Resumable) and config.checkpoint_uri is None
    ]
    return override(recipe, [f"{name}.checkpoint_uri={place}" for name in stages])


def _scheduling(
    options: argparse.Namespace, recipe: Recipe, several: dict[str, int]
) -> placement.Scheduling:
    return placement.Scheduling(
        cache=not options.no_cache,
        resumes=placement.resumes(recipe),
        spot=options.spot,
        queue=options.queue,
        priority=options.priority,
        nodes=several,
    )


def _end(message: str) -> NoReturn:
    print(f"submit: error: {as_line(message)}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
