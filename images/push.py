"""Pushes the image to a registry and pins its digest: `make image-push REGISTRY=...`.

`images/pinned.txt` then names the image by digest, and every component uses it unless IMAGE is set.
A digest, because KFP's cache key holds the image's name: behind a tag that moves, results go stale.
"""

import argparse
from pathlib import Path

import docker
from docker.errors import APIError

from components import PROJECT
from components.container import BUILT, PINNED
from images.end import end
from model.options import check
from pipelines import engine


def main() -> None:
    """The command line behind `make image-push`."""
    parser = argparse.ArgumentParser(prog="python -m images.push", description=__doc__)
    parser.add_argument("--registry", required=True, help="HOST[:PORT][/PATH]")
    parser.add_argument("--tag", default=BUILT, help="the local image")
    parser.add_argument("--pinned", type=Path, default=PINNED, help="file to write the digest to")
    options = parser.parse_args()
    try:
        is_name = bool(options.registry) and "://" not in options.registry
        check("REGISTRY", options.registry, is_name, "HOST[:PORT][/PATH]")
        pinned = push(engine.connect(), options.tag, options.registry.rstrip("/"))
    except ValueError as error:
        end("image", str(error), 2)
    options.pinned.write_text(f"{pinned}\n")
    print(f"image: {pinned}\nimage: pinned in {options.pinned}")


def push(client: docker.DockerClient, tag: str, registry: str) -> str:
    """Pushes the image under its commit and returns its name by digest. Raises ValueError."""
    image = engine.require(client, tag)
    commit = (image.labels or {}).get(engine.REVISION, "unknown")
    repository = f"{registry}/{PROJECT}"
    image.tag(repository, commit)
    try:
        events = list(client.images.push(repository, commit, stream=True, decode=True))
    except APIError as error:
        raise ValueError(f"cannot push to REGISTRY={registry}: {error.explanation}") from error
    for event in events:
        if "error" in event:
            raise ValueError(f"cannot push to REGISTRY={registry}: {event['error']}")
    (digest,) = [event["aux"]["Digest"] for event in events if "Digest" in event.get("aux", {})]
    return f"{repository}@{digest}"


if __name__ == "__main__":
    main()
