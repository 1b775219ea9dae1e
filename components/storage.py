"""Fetches from the Hugging Face Hub; the only module that opens a network connection.

A local directory passes through. Tokens come from the environment, as huggingface_hub reads them.
"""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError


def fetch(name: str, revision: str | None, *, kind: str, patterns: list[str]) -> Path:
    """The local directory `name`, or a snapshot of the Hub repository of that name.

    `kind` is "model" or "dataset". Raises ValueError naming what could not be fetched.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(
            snapshot_download(name, revision=revision, repo_type=kind, allow_patterns=patterns)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{kind} {name!r} is neither a local directory nor to be had from the Hub: {reason}"
        ) from error
