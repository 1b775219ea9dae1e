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
from model.options import check
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
    options = parser.parse_args()
    try:
        stages = sorted(path.parent.name for path in COMPONENTS.glob("*/__main__.py"))
        names = (*stages, "selftest")
        check("STAGE", options.stage, options.stage in names, ", ".join(names))
        engine.require(engine.connect(), IMAGE)
        docker = shutil.which("docker")
        if docker is None:
            raise ValueError("no docker command; install it with `sudo images/engine.sh`")
    except ValueError as error:
        end("component-run", str(error), 2)
    command = [docker, *arguments(options.stage, options.arguments, options.runs, options.network)]
    print(shlex.join(command), file=sys.stderr, flush=True)
    os.execv(docker, command)


def arguments(stage: str, flags: list[str], runs: Path, network: str) -> list[str]:
    """The arguments of `docker run`; makes the mounted directories, which else would be root's."""
    cache = runs.absolute() / ".cache"
    cache.mkdir(parents=True, exist_ok=True)
    settings = ["--rm", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp:mode=1777"]
    settings += ["--security-opt", "no-new-privileges", "--shm-size", "1g", "--network", network]
    settings += ["--user", f"{os.getuid()}:{os.getgid()}", "--workdir", str(Path.cwd())]
    settings += ["--volume", f"{runs.absolute()}:{runs.absolute()}", "--volume", f"{cache}:{CACHE}"]
    for name in PASSED:
        settings += ["--env", name] if name in os.environ else []
    return ["run", *settings, "--env", f"IMAGE={IMAGE}", IMAGE, f"components.{stage}", *flags]


if __name__ == "__main__":
    main()
