"""Prints the packages of the image with their hashes: all pins but torch and the `dev` extra.

Standard library only: it runs in the image's first stage, before anything is installed.
"""

import re
import sys
import tomllib
from pathlib import Path


def runtime(project: str, lock: str, hashes: str) -> str:
    """The entries of `hashes` that `lock` pins, less those of the `dev` extra.

    `project` is pyproject.toml, `lock` requirements.lock, `hashes` requirements-hashes.lock, whose
    entries are a pin and its indented lines.
    """
    extra = tomllib.loads(project)["project"]["optional-dependencies"]["dev"]
    names = {_name(pin) for pin in re.findall(r"^\w.*", lock, flags=re.MULTILINE)}
    names -= {_name(requirement) for requirement in extra}
    entries = re.split(r"^(?=\w)", hashes, flags=re.MULTILINE)[1:]
    return "".join(entry for entry in entries if _name(entry) in names)


def _name(requirement: str) -> str:
    """The normalized name of a requirement (PEP 503)."""
    name = re.match(r"[\w.-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


if __name__ == "__main__":
    print(runtime(*(Path(path).read_text() for path in sys.argv[1:])), end="")
