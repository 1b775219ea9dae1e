"""The finished requests of an evaluation, so that none is asked twice.

    answers-3f2a91c0.jsonl   {"key", "value", "tokens", ...} a line, by one process of one attempt

A line is written as soon as its request has ended; a process that is killed loses no more than the
line that it was writing. The key is a fingerprint of model, adapters, settings and request, so that
answers of another evaluation are never taken for finished ones. Object storage cannot append to a
file: there the file is uploaded anew every minute.
"""

import dataclasses
import hashlib
import json
import tempfile
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from components import storage
from components.evaluate.config import EvaluateConfig
from components.evaluate.requests import Query

NAMES = "answers-*.jsonl"
SECONDS = 60
"""Between two uploads."""
SETTINGS = {
    "answer": (
        "gen_length",
        "block_length",
        "steps",
        "temperature",
        "cfg_scale",
        "remasking",
        "threshold",
        "factor",
        "cache",
        "repetition_penalty",
        "forbidden",
        "deferred",
        "seed",
    ),
    "likelihood": (
        "samples",
        "draw",
        "likelihood_batch",
        "likelihood_cfg_scale",
        "choices",
        "check_greedy",
        "seed",
    ),
}
"""The fields on which the value of a request depends, beside the request itself."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """A request's value and its cost; the costs of all add up to what an evaluation did."""

    value: str | tuple[float, bool]
    """An answer's text, or a log-likelihood in nats and whether the text is the greedy answer."""
    prompt_tokens: int
    tokens: int = 0
    """Tokens generated up to the stop."""
    passes: int = 0
    """Forward passes that this answer took part in with a mask of its own."""
    batch_passes: int = 0
    """Forward passes of the batch since the request before was finished."""
    rows: int = 0
    """Rows of those passes."""
    seconds: float = 0.0
    """Since the request before was finished."""


def identity(config: EvaluateConfig, fingerprints: Iterable[str]) -> str:
    """What the answers of an evaluation depend on: model, adapters in their order, and settings."""
    fields = sorted({name for names in SETTINGS.values() for name in names})
    settings = {name: getattr(config, name) for name in fields}
    content = [list(fingerprints), settings]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def open_store(config: EvaluateConfig, evaluation: Path, fingerprints: Iterable[str]) -> "Store":
    """The store of an evaluation: below `checkpoint_uri`, or in its own output directory.

    `fingerprints` are those of the model and of its adapters in their order.
    """
    content = identity(config, fingerprints)
    if config.checkpoint_uri is None:
        return Store(evaluation, content)
    return Store(storage.join(config.checkpoint_uri, f"evaluate-{content[:16]}"), content)


class Store:
    """Finished requests below a directory or an S3 prefix; each process writes its own file."""

    def __init__(self, place: Path | str, content: str) -> None:
        """Reads what earlier attempts have finished. `content` is the evaluation's `identity`.

        Raises OSError where the place cannot be read.
        """
        self.place, self.content = str(place), content
        self.file = f"answers-{uuid.uuid4().hex[:8]}.jsonl"
        self.is_remote = storage.is_remote(self.place)
        self.folder = Path(tempfile.mkdtemp(prefix="answers-") if self.is_remote else self.place)
        self.saved_at = time.monotonic()
        self.finished = self._read()

    def key(self, query: Query) -> str:
        """The fingerprint of a request in this evaluation."""
        return hashlib.sha256(f"{self.content} {query.digest}".encode()).hexdigest()

    def get(self, query: Query) -> Finished | None:
        """What an earlier attempt has finished."""
        return self.finished.get(self.key(query))

    def add(self, query: Query, finished: Finished) -> None:
        """Keeps a finished request."""
        line = json.dumps({"key": self.key(query), **dataclasses.asdict(finished)})
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / self.file).open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
        if self.is_remote and time.monotonic() - self.saved_at > SECONDS:
            self.save()

    def save(self) -> None:
        """Uploads what object storage does not have yet."""
        local = self.folder / self.file
        if self.is_remote and local.exists():
            storage.put_file(local, storage.join(self.place, self.file))
            self.saved_at = time.monotonic()

    def clear(self) -> None:
        """Removes everything that was kept, of every attempt."""
        for name in self._names():
            storage.delete(storage.join(self.place, name))

    def _names(self) -> list[str]:
        if not self.is_remote:
            return sorted(path.name for path in self.folder.glob(NAMES))
        return sorted(name for name in storage.list_files(self.place) if name.endswith(".jsonl"))

    def _read(self) -> dict[str, Finished]:
        found: dict[str, Finished] = {}
        for name in self._names():
            with storage.open_file(storage.join(self.place, name)) as stream:
                found |= dict(filter(None, map(_kept, stream.read().split(b"\n"))))
        return found


def _kept(line: bytes) -> tuple[str, Finished] | None:
    """A line's key and request; None where the process was killed while it wrote the line."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    key, value = record.pop("key"), record.pop("value")
    return key, Finished(tuple(value) if isinstance(value, list) else value, **record)
