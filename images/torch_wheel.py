"""Puts torch's CPU build into `images/wheels`, where the build of the cpu flavour finds it.

It comes from where pip on this machine looks, or from an index given. A CUDA build is refused: it
brings gigabytes that the cpu flavour has no use for.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TARGET = ["--python-version", "3.11", "--only-binary", ":all:", "--no-deps"]


def provide(directory: Path, *, index: str | None) -> None:
    """Downloads the wheel unless it is there. Raises ValueError where pip offers no CPU build."""
    pin = requirement((ROOT / "requirements.lock").read_text())
    if list(directory.glob(f"{pin.replace('==', '-')}[+-]*.whl")):
        return
    source = ["--index-url", index] if index else []
    asked = ["install", "--dry-run", "--ignore-installed", "--report", "-", *TARGET, *source, pin]
    with tempfile.TemporaryDirectory() as nowhere:  # older pips want a target even for a dry run
        offered = json.loads(_pip([*asked, "--target", nowhere]))["install"][0]
    if is_cuda(offered["metadata"]):
        raise ValueError(
            f"pip offers torch's CUDA build for {pin}; give TORCH_INDEX=the index of torch's CPU "
            "builds, put the wheel into images/wheels, or set FLAVOUR=cuda"
        )
    _pip(["download", "--dest", str(directory), *TARGET, *source, pin])


def requirement(lock: str) -> str:
    """The lock file's pin of torch."""
    pin = re.search(r"^torch==\S+", lock, flags=re.MULTILINE)
    assert pin, "requirements.lock pins no torch"
    return pin[0]


def is_cuda(metadata: dict[str, Any]) -> bool:
    """Whether a wheel asks for NVIDIA's packages on this machine."""
    wanted = [Requirement(text) for text in metadata.get("requires_dist", [])]
    return any(
        requirement.name.startswith(("nvidia-", "cuda-"))
        and (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
        for requirement in wanted
    )


def _pip(arguments: list[str]) -> str:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise ValueError(f"pip {arguments[0]} of torch's CPU build failed: {reason[0]}")
    return done.stdout
