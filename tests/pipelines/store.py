"""The messages of KFP's metadata store that are needed here, by protobuf itself.

Names and numbers of the fields are those of ml_metadata's protocol.
"""

import struct

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

INT, DOUBLE, TEXT, MESSAGE = 3, 1, 9, 11
ONE, MANY = 1, 3
MESSAGES = {
    "GetContextByTypeAndNameRequest": {"type_name": (1, TEXT), "context_name": (2, TEXT)},
    "Context": {"id": (1, INT)},
    "GetContextByTypeAndNameResponse": {"context": (1, "Context")},
    "GetArtifactsByContextRequest": {"context_id": (1, INT)},
    "Value": {"int_value": (1, INT), "double_value": (2, DOUBLE), "string_value": (3, TEXT)},
    "Property": {"key": (1, TEXT), "value": (2, "Value")},
    "Artifact": {"id": (1, INT), "uri": (3, TEXT), "custom_properties": (5, "Property", MANY)},
    "GetArtifactsByContextResponse": {"artifacts": (1, "Artifact", MANY)},
}


def _classes():
    file = descriptor_pb2.FileDescriptorProto(name="store.proto", package="ours", syntax="proto2")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, *count) in fields.items():
            label = count[0] if count else ONE
            own = message.field.add(name=field, number=number, label=label)
            own.type = kind if isinstance(kind, int) else MESSAGE
            if isinstance(kind, str):
                own.type_name = f".ours.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ours.{name}"))
        for name in MESSAGES
    }


CLASSES = _classes()


def parse(name, framed):
    """The message in a frame of gRPC-Web."""
    kind, length = struct.unpack(">BI", framed[:5])
    assert kind == 0 and length == len(framed) - 5
    return CLASSES[name].FromString(framed[5:])


def frame(name, content):
    """A message in its frame, and the frame with the status behind it."""
    message = json_format.ParseDict(content, CLASSES[name]()).SerializeToString()
    status = b"grpc-status: 0\r\n"
    return b"".join(
        struct.pack(">BI", kind, len(part)) + part for kind, part in ((0, message), (128, status))
    )


def artifact(properties):
    """An artifact with the properties that a stage gives it, at the address of its output."""
    kinds = {str: "string_value", int: "int_value", float: "double_value"}
    own = [
        {"key": key, "value": {kinds[type(value)]: value}}
        for key, value in properties.items()
        if key not in ("output", "uri", "number")
    ]
    address = properties.get("uri", f"s3://bucket/root/run/task/uuid/{properties.get('output')}")
    return {"id": properties.get("number", 1), "uri": address, "custom_properties": own}
