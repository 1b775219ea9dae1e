"""What a run on a cluster has made, by KFP's metadata store, as the UI asks it: gRPC over HTTP.

KFP's REST API has no call that gives the facts of an artifact. The two calls of the store that are
needed here have a few fields, so they are read and written without its package.
"""

import os
import struct
import urllib.request
from collections.abc import Iterator
from typing import Any

SERVICE = "ml_metadata.MetadataStoreService"
CONTEXT = "system.PipelineRun"
Fields = Iterator[tuple[int, Any]]


def artifacts(url: str, run: str) -> list[dict[str, Any]]:
    """What the stages reported of each of the run's artifacts, and which `output` it is."""
    asked = _text(1, CONTEXT) + _text(2, run)
    context = dict(_fields(_call(url, "GetContextByTypeAndName", asked))).get(1)
    assert context is not None, f"the metadata store has no run {run}"
    (number,) = (value for field, value in _fields(context) if field == 1)
    answer = _call(url, "GetArtifactsByContext", _number(1, number))
    return [_artifact(value) for field, value in _fields(answer) if field == 1]


def _artifact(message: bytes) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for field, value in _fields(message):
        if field == 3:
            properties["output"] = value.decode().rpartition("/")[2]  # <root>/.../<output>
        elif field == 5:
            entry = dict(_fields(value))
            properties[entry[1].decode()] = _value(entry.get(2, b""))
    return properties


def _value(message: bytes) -> Any:
    """A whole number, a double, a text or a truth value; None for what no stage reports."""
    for field, value in _fields(message):
        if field == 2:
            return struct.unpack("<d", value)[0]
        if field == 3:
            return value.decode()
        if field in (1, 6):
            return value
    return None


def _call(url: str, method: str, message: bytes) -> bytes:
    """One call; the answer is a frame of its own, before the frame with the status."""
    frame = struct.pack(">BI", 0, len(message)) + message
    headers = {"Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1"}
    if token := os.environ.get("KFP_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(f"{url}/{SERVICE}/{method}", frame, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        content = answer.read()
        status = answer.headers.get("grpc-status")
    assert status in (None, "0"), f"{method}: {answer.headers.get('grpc-message')} ({status})"
    kind, length = struct.unpack(">BI", content[:5])
    assert kind == 0, f"{method}: {content[5:].decode(errors='replace').strip()}"
    return content[5 : 5 + length]


def _fields(message: bytes) -> Fields:
    """Number and value of every field of a protocol buffer."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield number, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if length is None:
            assert kind == 2, f"kind {kind} of a field"
            length, place = _varint(message, place)
        yield number, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """The whole number that begins at a place, seven bits a byte, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def _number(field: int, value: int) -> bytes:
    return _packed(field << 3) + _packed(value)


def _text(field: int, value: str) -> bytes:
    content = value.encode()
    return _packed(field << 3 | 2) + _packed(len(content)) + content


def _packed(value: int) -> bytes:
    content = bytearray()
    while value >= 0x80:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*content, value])
