"""Builds the shared image from `images/Dockerfile`: `make image-build`.

Packages come from pip's index on this machine: its address and certificate reach the build as
secrets, which no layer keeps. Needs a Docker engine and a client with BuildKit.
"""

import argparse
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from components.container import BUILT
from images import torch_wheel
from images.end import end
from images.pip_settings import PipSettings
from model.options import check
from pipelines import engine

ROOT = Path(__file__).parents[1]
FLAVOURS = ("cpu", "cuda")
CACHE = "of the layers, read and written; wants a builder of the driver docker-container"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


def main() -> None:
    """The command line behind `make image-build`; exit code 2 where something is missing."""
    parser = argparse.ArgumentParser(prog="python -m images.build", description=__doc__)
    parser.add_argument("--flavour", default="cpu", help="cpu or cuda")
    parser.add_argument("--tag", default=BUILT)
    parser.add_argument("--base-image", help="default: the Dockerfile's")
    parser.add_argument("--torch-index", help="index of torch's CPU builds, where pip has none")
    parser.add_argument("--network", default="host", help="network of the build")
    parser.add_argument("--cache", type=Path, metavar="DIR", help=CACHE)
    options = parser.parse_args()
    try:
        check("FLAVOUR", options.flavour, options.flavour in FLAVOURS, ", ".join(FLAVOURS))
        engine.connect().close()
        client = _client()
        if options.flavour == "cpu":
            torch_wheel.provide(ROOT / "images" / "wheels", index=options.torch_index)
    except ValueError as error:
        end("image", str(error), 2)
    commit = source_commit()
    with tempfile.TemporaryDirectory() as secrets:
        PipSettings.of_this_machine().write(Path(secrets))
        command = [client, "build", *_arguments(options, commit, Path(secrets)), str(ROOT)]
        done = subprocess.run(command, env={**os.environ, "DOCKER_BUILDKIT": "1"}, check=False)
    if done.returncode:
        end("image", f"the build failed with exit code {done.returncode}; its reason is above", 1)
    print(f"image: {options.tag}, {options.flavour}, built from {commit}")


def _arguments(options: argparse.Namespace, commit: str, secrets: Path) -> list[str]:
    values = {
        "FLAVOUR": options.flavour,
        "SOURCE_COMMIT": commit,
        "IMAGE": options.tag,
        **({"BASE_IMAGE": options.base_image} if options.base_image else {}),
        **{name: os.environ[name] for name in PROXIES if name in os.environ},
    }
    arguments = ["--file", str(ROOT / "images" / "Dockerfile"), "--tag", options.tag]
    arguments += ["--network", options.network]
    if options.cache:
        arguments += ["--cache-from", f"type=local,src={options.cache}", "--load"]
        arguments += ["--cache-to", f"type=local,dest={options.cache},mode=max"]
    for name, value in values.items():
        arguments += ["--build-arg", f"{name}={value}"]
    for file in secrets.iterdir():
        arguments += ["--secret", f"id={file.name},src={file}"]
    return arguments


def source_commit() -> str:
    """The checkout's commit, with -dirty where tracked files differ; "unknown" outside git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty"]
    command += ["--exclude", "*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _client() -> str:
    """A docker command that has BuildKit: older ones carry it, newer ones need buildx."""
    programs = [shutil.which("docker", path=place) for place in os.get_exec_path()]
    clients = [program for program in programs if program]
    for client in clients:
        version = subprocess.run([client, "--version"], capture_output=True, text=True, check=True)
        major = re.search(r"version (\d+)", version.stdout)
        buildx = subprocess.run([client, "buildx", "version"], capture_output=True, check=False)
        if buildx.returncode == 0 or (major and 18 < int(major[1]) < 23):
            return client
    raise ValueError(
        f"no docker command with BuildKit among {', '.join(clients) or 'none'}; install the buildx "
        "plugin (Debian 12: `sudo images/engine.sh` installs docker.io, which has it)"
    )


if __name__ == "__main__":
    main()
