"""Prints requirements.lock without the packages of pyproject.toml's `dev` extra.

Standard library only: it runs in the image's first stage, before anything is installed.
"""

import re
import sys
import tomllib
from pathlib import Path


def runtime(project: str, lock: str) -> list[str]:
    """The pins of `lock` less the packages of the `dev` extra of `project`, a pyproject.toml."""
    extra = tomllib.loads(project)["project"]["optional-dependencies"]["dev"]
    dropped = {_name(requirement) for requirement in extra}
    pins = [line for line in lock.splitlines() if line and not line.startswith("#")]
    return [pin for pin in pins if _name(pin) not in dropped]


def _name(requirement: str) -> str:
    """The normalized name of a requirement (PEP 503)."""
    name = re.match(r"[\w.-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


if __name__ == "__main__":
    print("\n".join(runtime(*(Path(path).read_text() for path in sys.argv[1:]))))
