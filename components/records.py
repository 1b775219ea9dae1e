"""The form of a record: its fields, its fingerprint, and the checksum that protects each bit of it.

The fingerprint says what an artifact is: the same for the same files, made by the same stage with
the same configuration from the same inputs. Times and memory are no part of it. `artifact` writes
and reads the records. Standard library only.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from components import names

FORMAT = 2
LARGEST = 64 << 20  # bytes of a record; the largest models have a few hundred files
MEASURED = ("seconds", "total_seconds", "tokens_per_second", "peak_memory_bytes", "mfu")
IDENTITY = ("format", "stage", "output", "config", "inputs", "files", "lineage", "summary")
FIELDS: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "stage": str,
    "output": str,
    "fingerprint": str,
    "config": dict,
    "inputs": dict,
    "files": dict,
    "lineage": list,
    "summary": dict,
    "packages": dict,
    "python": str,
    "git_commit": (str, type(None)),
    "image": (str, type(None)),
    "created": str,
    "sha256": str,
}
REFERENCE = {"stage": str, "output": str, "fingerprint": str}
ENTRY = {**REFERENCE, "config": dict, "summary": dict}


def fingerprint(record: Mapping[str, Any]) -> str:
    """The sha256 of all that an artifact is, in hexadecimal."""
    identity = {name: record[name] for name in IDENTITY}
    identity["lineage"] = record["lineage"][:-1]  # the last entry is the record's own
    return _digest(_unmeasured(identity))


def execution_key(entry: Mapping[str, Any]) -> str:
    """Identifies the execution of a stage that an entry of a lineage comes from.

    The outputs of one execution share its summary, which holds measured times.
    """
    return json.dumps([entry["stage"], entry["summary"]], sort_keys=True)


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its fingerprint and, last, the checksum of everything in it.

    Its own entry in the lineage gets the fingerprint too, which is of the ancestors' entries alone.
    """
    content = {name: value for name, value in record.items() if name != "sha256"}
    content["fingerprint"] = fingerprint(content)
    content["lineage"][-1]["fingerprint"] = content["fingerprint"]
    return {**content, "sha256": _digest(content)}


def parse(raw: bytes) -> dict[str, Any]:
    """The record in the bytes of its file. Raises ValueError with the reason unless it is whole.

    The bytes must be those that were written: another spelling of the same values is refused.
    """
    try:
        return _parse(raw)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        record = json.loads(raw)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    _check_form(record)
    content = {name: value for name, value in record.items() if name != "sha256"}
    if dump(record) != raw or record["sha256"] != _digest(content):
        raise ValueError("its sha256 is not that of its content: it was changed")
    own = [record["fingerprint"], *(entry["fingerprint"] for entry in record["lineage"][-1:])]
    if own != [fingerprint(record)] * 2:
        raise ValueError("its fingerprint is not that of its content")
    return record


def dump(record: Mapping[str, Any]) -> bytes:
    """The bytes of a record's file, as `atomic.write_json` writes them."""
    return json.dumps(record, indent=1).encode()


def _check_form(record: Any) -> None:
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    if (number := record.get("format")) != FORMAT:
        raise ValueError(
            f"format={number!r}, allowed: {FORMAT}; make the artifact again with this version"
        )
    check_fields(record, FIELDS, "")
    names.check_all(record["files"], "files")
    for name, facts in record["files"].items():
        check_fields(facts, {"sha256": str, "bytes": int}, f"files.{name}.")
    if "references" in record:
        _check_references(record["references"], record["files"])
    for name, facts in record["inputs"].items():
        check_fields(facts, REFERENCE, f"inputs.{name}.")
    for number, entry in enumerate(record["lineage"]):
        check_fields(entry, ENTRY, f"lineage.{number}.")


def _check_references(value: Any, files: Mapping[str, Any]) -> None:
    """Raises ValueError unless files of the record are at places that are texts."""
    check_fields(value, {"files": dict, "cache": (str, type(None))}, "references.")
    for name, location in value["files"].items():
        if name not in files or not isinstance(location, str):
            raise ValueError(f"references.files.{name} is no file of the record with its location")


def check_fields(value: Any, kinds: Mapping[str, Any], place: str) -> None:
    """Raises ValueError unless `value` is an object with fields of these kinds, among others.

    `place` comes before a field's name in a message. True and false are no numbers.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{place.rstrip('.')} is no JSON object")
    for name, kind in kinds.items():
        if name not in value:
            raise ValueError(f"it has no {place}{name}")
        is_wrong = isinstance(value[name], bool) and kind is not bool
        if is_wrong or not isinstance(value[name], kind):
            raise ValueError(f"{place}{name} is of another type")


def _unmeasured(value: Any) -> Any:
    """A value without the figures that the machine's load decides."""
    if isinstance(value, dict):
        return {key: _unmeasured(inner) for key, inner in value.items() if key not in MEASURED}
    return [_unmeasured(inner) for inner in value] if isinstance(value, list | tuple) else value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
