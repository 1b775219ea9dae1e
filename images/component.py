"""Runs one stage in its container: `make component-run STAGE=sft ARGS='...'`.

The runs' directory is mounted at its own path and the working directory is yours, so that paths
mean the same inside and outside. Prints the docker command, to be copied.
"""

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path

from components.container import IMAGE
from images.end import end
from pipelines import engine
from pipelines.containers import CACHE, PASSED

COMPONENTS = Path(__file__).parents[1] / "components"


def main() -> None:
    """The command line behind `make component-run`; the container takes this process's place."""
    parser = argparse.ArgumentParser(prog="python -m images.component", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path(".runs"), help="directory to mount")
    parser.add_argument("--network", default="none", help="none, bridge or host")
    parser.add_argument("stage")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    try:
        stages = sorted(path.parent.name for path in COMPONENTS.glob("*/__main__.py"))
        if given.stage not in (*stages, "selftest"):
            raise ValueError(f"STAGE={given.stage}, allowed: {', '.join(stages)}, selftest")
        engine.require(engine.connect(), IMAGE)
        docker = shutil.which("docker")
        if docker is None:
            raise ValueError("no docker command; install it with `sudo images/engine.sh`")
    except ValueError as error:
        end("component-run", str(error), 2)
    command = [docker, *arguments(given.stage, given.arguments, given.runs, given.network)]
    print(shlex.join(command), file=sys.stderr, flush=True)
    os.execv(docker, command)


def arguments(stage: str, given: list[str], runs: Path, network: str) -> list[str]:
    """The arguments of `docker run`; makes what is mounted, lest Docker make it root's."""
    cache = runs.absolute() / ".cache"
    cache.mkdir(parents=True, exist_ok=True)
    options = ["--rm", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp:mode=1777"]
    options += ["--security-opt", "no-new-privileges", "--shm-size", "1g", "--network", network]
    options += ["--user", f"{os.getuid()}:{os.getgid()}", "--workdir", str(Path.cwd())]
    options += ["--volume", f"{runs.absolute()}:{runs.absolute()}", "--volume", f"{cache}:{CACHE}"]
    for name in PASSED:
        options += ["--env", name] if name in os.environ else []
    return ["run", *options, "--env", f"IMAGE={IMAGE}", IMAGE, f"components.{stage}", *given]


if __name__ == "__main__":
    main()
