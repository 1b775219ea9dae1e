"""The commits of what a run takes from the Hub: asked for before it starts, and put into it.

A branch moves, so that a run without commits is another run tomorrow. What is local, in S3 or
pinned already is left alone, and the Hub is not asked about it.
"""

import argparse
import dataclasses
import re
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from components.data import catalogue
from components.data.config import Source
from components.download.config import DownloadConfig
from components.preflight.config import Recipe
from components.storage import StorageError, hub

COMMIT = re.compile(r"[0-9a-f]{40}")
PLACE = re.compile(
    r"hf://(?P<kind>datasets/|)(?P<name>[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/[^/]+/[^/]+|[^/]+))?(?P<path>/.*)?"
)
KINDS = {"datasets/": "dataset", "": "model"}
NO_PINS = "take the branches as they are when the stages read them; the Hub is not asked"


class Repository(NamedTuple):
    """A repository on the Hub at a revision, None for its main branch, and how to pin it."""

    kind: str
    name: str
    revision: str | None
    setting: str
    """The setting that pins it."""


Ask = Callable[[Repository], str]
"""The commit of a repository."""


def pinned(recipe: Recipe, ask: Ask) -> Recipe:
    """The recipe with the commit of every model and dataset that it takes from the Hub."""
    own = recipe.download
    pins: dict[str, Any] = {}
    for kind, revision in (("model", "revision"), ("dataset", "dataset_revision")):
        repository = getattr(own, kind)
        if repository is not None and _is_on_hub(repository):
            setting, branch = f"download.{revision}=COMMIT", getattr(own, revision)
            pins[revision] = _commit(Repository(kind, repository, branch, setting), ask)
    for part in (*catalogue.KINDS, "held_out"):
        sources = (_pinned_source(source, part, own, ask) for source in getattr(own, part))
        pins[part] = tuple(sources)
    return dataclasses.replace(recipe, download=dataclasses.replace(own, **pins))


def unpinned(recipe: Recipe) -> list[Repository]:
    """The repositories on the Hub that a recipe names without a commit. Asks nobody."""
    repositories: dict[Repository, str] = {}
    pinned(recipe, lambda repository: repositories.setdefault(repository, "0" * 40))
    return list(repositories)


def described(repositories: list[Repository]) -> str:
    """The names of repositories, each once, with the branch where one is named."""
    names = [name + (f"@{revision}" if revision else "") for _, name, revision, _ in repositories]
    return ", ".join(dict.fromkeys(names))


def pin(recipe: Recipe) -> Recipe:
    """The recipe with the commits that the Hub has now, each printed as NAME@COMMIT.

    Raises ValueError naming the repository whose commit is not to be had, and how to pin it.
    """
    commits: dict[tuple, str] = {}

    def ask(repository: Repository) -> str:
        place = repository[:3]
        if place not in commits:
            commits[place] = _commit_now(repository)
            print(f"pinned: {repository.name}@{commits[place]}", flush=True)
        return commits[place]

    return pinned(recipe, ask)


def add_option(parser: argparse.ArgumentParser) -> None:
    """The option of the command lines that pin."""
    parser.add_argument("--no-pins", action="store_true", help=NO_PINS)


def _commit_now(repository: Repository) -> str:
    try:
        return hub.commit(repository.name, repository.revision, kind=repository.kind)
    except StorageError as error:
        yourself = f"pin it yourself (--set {repository.setting})"
        raise ValueError(f"{error}; {yourself}, or go on with the branch (--no-pins)") from error


def _is_on_hub(name: str) -> bool:
    """Whether a model or dataset is a repository's name: no place in S3, no path, not "new"."""
    is_place = "://" in name or name.startswith(("/", ".", "~"))
    return not (name == "new" or is_place or Path(name).is_dir())


def _commit(repository: Repository, ask: Ask) -> str:
    revision = repository.revision
    return revision if revision and COMMIT.fullmatch(revision) else ask(repository)


def _pinned_source(source: Source, part: str, own: DownloadConfig, ask: Ask) -> Source:
    if source.location is None:
        return _pinned_name(source, part, own, ask)
    match = PLACE.fullmatch(source.location)
    if match is None:
        return source
    kind, name, revision, path = match.group("kind", "name", "revision", "path")
    branch = urllib.parse.unquote(revision) if revision else None
    setting = f'download.{part}=[{{"location":"hf://{kind}{name}@COMMIT{path or ""}"}}]'
    commit = _commit(Repository(KINDS[kind], name, branch, setting), ask)
    return dataclasses.replace(source, location=f"hf://{kind}{name}@{commit}{path or ''}")


def _pinned_name(source: Source, part: str, own: DownloadConfig, ask: Ask) -> Source:
    """A source that names a data set of the catalogue; one that is made here stays as it is."""
    assert source.name is not None
    entry = catalogue.find(source.name, own.catalogue)
    if entry.repository is None or entry.made is not None:
        return source
    setting = f'download.{part}=[{{"name":"{source.name}","revision":"COMMIT"}}]'
    branch = source.revision or entry.commit
    commit = _commit(Repository("dataset", entry.repository, branch, setting), ask)
    return dataclasses.replace(source, revision=commit)
