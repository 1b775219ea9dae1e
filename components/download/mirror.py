"""Base models that were written to a store once, for every later run to read.

    MIRROR/<model>/      config.json, safetensors and tokenizer, as the download stage checked them
    MIRROR/<model>/base.json        the number of parameters
    MIRROR/<model>/.manifest.json   sizes and checksums, written last

<model> is OWNER--NAME@COMMIT for a model of the Hub, else a checksum of its files. A model that
lies below the mirror already is referred to where it is.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components import artifact, storage
from components.artifact import References
from components.storage import directories

FACTS = "base.json"


class Place(NamedTuple):
    """A model in the mirror."""

    location: str
    files: dict[str, dict[str, Any]]
    """Size and sha256 of its files."""
    parameters: int

    def references(self, cache: str | None) -> References:
        """The weights, for the record of an artifact."""
        weights = {name: facts for name, facts in self.files.items() if _is_weight(name)}
        locations = {name: storage.join(self.location, name) for name in weights}
        return References(weights, {"files": locations, "cache": cache})

    def copy_small_files(self, path: Path) -> None:
        """Copies what an artifact holds itself: configuration, index and tokenizer.

        Raises StorageError naming a file that is gone, or is another than was written: somebody
        has put a different model there. Of weights only the size is compared; stages compare more.
        """
        sizes = storage.list_files(self.location)
        for name, facts in self.files.items():
            self._refuse_other(name, "bytes", sizes.get(name), facts)
        for name, facts in self.files.items():
            if not _is_weight(name) and name != FACTS:
                storage.get_file(storage.join(self.location, name), path / name)
                self._refuse_other(name, "sha256", artifact.checksum(path / name), facts)

    def _refuse_other(self, name: str, fact: str, value: Any, facts: Mapping[str, Any]) -> None:
        if value != facts[fact]:
            state = "gone" if value is None else f"{fact}={value!r}, allowed: {facts[fact]!r}"
            raise storage.StorageError(
                f"{storage.join(self.location, name)}: {state}; this is not the model that was "
                f"kept there: remove {self.location}, and the next run fetches the model anew"
            )


def find(mirror: str, address: str) -> Place | None:
    """The model of the Hub with this address, OWNER/NAME@COMMIT; None if it is not there yet."""
    location = storage.join(mirror, address.replace("/", "--"))
    if not storage.exists(location):
        return None
    files = storage.read_json(storage.join(location, storage.MANIFEST))["files"]
    facts = storage.read_json(storage.join(location, FACTS))
    return Place(location, files, facts["parameters"])


def holds(mirror: str, model: str) -> bool:
    """Whether a model's location is the mirror, or below it."""
    return f"{model.rstrip('/')}/".startswith(f"{mirror.rstrip('/')}/")


def weights_at(location: str) -> dict[str, str]:
    """The location of each weight file of a model directory, by its name."""
    names = storage.list_files(location)
    return {
        name: storage.join(location, name)
        for name in names
        if _is_weight(name) and Path(name).parent == Path()
    }


def put(mirror: str, address: str | None, model: Path, parameters: int) -> Place:
    """Writes a model directory to the mirror, its files in parallel; nothing if it is there."""
    (model / FACTS).write_text(json.dumps({"parameters": parameters}))
    files = {
        file.name: {"sha256": artifact.checksum(file), "bytes": file.stat().st_size}
        for file in sorted(model.iterdir())
    }
    name = address.replace("/", "--") if address else _digest(files)
    location = storage.join(mirror, name)
    directories.put_directory(model, location)
    return Place(location, files, parameters)


def _digest(files: dict[str, dict[str, Any]]) -> str:
    # Two models may have the same weights, and other tokenizers.
    checksums = {name: facts["sha256"] for name, facts in files.items()}
    return hashlib.sha256(json.dumps(checksums, sort_keys=True).encode()).hexdigest()[:16]


def _is_weight(name: str) -> bool:
    return name.endswith(".safetensors")
