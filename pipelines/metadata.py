"""What a run on a cluster has made, by KFP's metadata store, as the UI asks it: gRPC over HTTP.

KFP's REST API has no call that gives the facts of an artifact. The two calls of the store that are
needed here have a few fields, so they are read and written without its package.
"""

import struct
import urllib.parse
from collections.abc import Iterator
from typing import Any

from kfp import Client

from pipelines.client import request

SERVICE = "ml_metadata.MetadataStoreService"
CONTEXT = "system.PipelineRun"
Fields = Iterator[tuple[int, Any]]


def artifacts(client: Client, run: str) -> list[dict[str, Any]]:
    """What the stages reported of each of the run's artifacts, the oldest first.

    Beside it the artifact's address as `uri`, the last part of that as `output`, and its `number`.
    """
    asked = _text(1, CONTEXT) + _text(2, run)
    context = dict(_fields(_call(client, "GetContextByTypeAndName", asked))).get(1)
    assert context is not None, f"the metadata store has no run {run}"
    (number,) = (value for field, value in _fields(context) if field == 1)
    answer = _call(client, "GetArtifactsByContext", _number(1, number))
    made = [_artifact(value) for field, value in _fields(answer) if field == 1]
    return sorted(made, key=lambda artifact: artifact["number"])


def _artifact(message: bytes) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    own: dict[str, Any] = {"number": 0}
    for field, value in _fields(message):
        if field == 1:
            own["number"] = value
        elif field == 3:
            own["uri"] = value.decode()
            own["output"] = own["uri"].rpartition("/")[2]  # <root>/.../<output>
        elif field == 5:
            entry = dict(_fields(value))
            properties[entry[1].decode()] = _value(entry.get(2, b""))
    return properties | own


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


def _call(client: Client, method: str, message: bytes) -> bytes:
    """One call; the answer is a frame of its own, before the frame with the status."""
    frame = struct.pack(">BI", 0, len(message)) + message
    headers = {"Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1"}
    # Kubeflow has the UI below a path of its address, and the store beside it.
    root = urllib.parse.urljoin(client._run_api.api_client.configuration.host, "/").rstrip("/")
    answer = request(client, f"/{SERVICE}/{method}", message=frame, headers=headers, host=root)
    content = answer.data
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
