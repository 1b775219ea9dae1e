"""Sends a recipe's pipeline to a Kubeflow cluster, runs it, and can follow it to its end.

The token comes from KFP_TOKEN or the pod's service account, never from an argument, which every
process of the machine can read. `client.py` reaches the server, `watch.py` follows the run.
"""

import argparse
import contextlib
import hashlib
import io
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from components import PROJECT
from components.preflight.config import Recipe
from model.training.preemption import Stopped, stoppable
from pipelines import placement, watch
from pipelines.client import FAILURES, Connection, connect, explain
from pipelines.compiler import write
from pipelines.form import arguments
from pipelines.overrides import choose
from pipelines.recipes import RECIPES


def send(
    server: Connection, recipe: Recipe, base: Recipe, *, name: str, profile: str, **options: Any
) -> str:
    """Uploads `base` if the server lacks it, runs it with the changes of `recipe`, returns the id.

    `options`: experiment, service_account, pipeline_root.
    """
    changed = {
        key: value for key, value in arguments(recipe).items() if value != arguments(base)[key]
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file = Path(folder) / f"{name}.yaml"
        write(base, file, profile=profile)
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
    return run.run_id


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
    parser.add_argument("recipe", help="a recipe of pipelines/recipes.py")
    parser.add_argument("--host", required=True, metavar="URL", help="the Kubeflow Pipelines API")
    parser.add_argument("--namespace", help="your profile, where the server has several users")
    parser.add_argument("--experiment", default="llada", help="where the UI lists the run")
    parser.add_argument("--preference", default="grpo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE")
    parser.add_argument("--placement", metavar="PROFILE", help=placement.HELP)
    parser.add_argument("--service-account", help="of the pods; by default the server's choice")
    parser.add_argument("--pipeline-root", metavar="URI", help="where artifacts go")
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
        recipe = choose(
            options.recipe, seed=options.seed, preference=options.preference, settings=options.set
        )
        profile = placement.profile(options.recipe, options.placement)
        server = connect(options.host, options.namespace, options.ui)
        run = send(
            server,
            recipe,
            RECIPES[options.recipe](),
            name=options.recipe,
            profile=profile,
            experiment=options.experiment,
            service_account=options.service_account,
            pipeline_root=options.pipeline_root,
        )
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
        state = watch.follow(server.client, run, poll=options.poll)
    except FAILURES as error:
        _end(f"{explain(error, options.host)}; the run goes on: {url}")
    except Stopped as notice:
        print(f"\nthe run goes on: {url}", file=sys.stderr)
        raise SystemExit(notice.code) from None
    print(f"{state.lower()}: {url}")
    raise SystemExit(0 if state == watch.GOOD else 1)


def _end(message: str) -> NoReturn:
    print(f"submit: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
