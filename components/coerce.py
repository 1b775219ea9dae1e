"""Builds a configuration from JSON: unknown keys are refused, messages name a field by its path.

KFP turns 1 into 1.0, so 1.0 is read as an integer; 1.5 is not. Which values are allowed is checked
by the configuration itself (`model.options`).
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, Union

from model.options import Checked, check, check_type

T = TypeVar("T")
LONGEST = 100  # characters of a name that a message repeats
EXACT = 2**53  # a float holds every whole number up to this one


def build(kind: type[T], values: Any, name: str = "") -> T:
    """An instance of the dataclass `kind` from a JSON object; missing fields keep their default.

    Raises ValueError naming the field, its value and the values allowed.
    """
    check(name or "config", values, isinstance(values, Mapping), "a JSON object")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    prefix = f"{name}." if name else ""
    for key in values:
        if key not in fields:
            hint, known = nearest(key, fields), ", ".join(sorted(fields))
            raise ValueError(f"unknown field {prefix}{key[:LONGEST]}{hint}; allowed: {known}")
    for key, field in fields.items():
        if key not in values and field.default is dataclasses.MISSING:
            raise ValueError(f"{prefix}{key} is missing, and has no default")
    try:
        values = kind.completed(values) if issubclass(kind, Checked) else values
    except ValueError as error:
        raise ValueError(_with_path(name, str(error))) from None
    arguments = {key: _convert(hints[key], item, prefix + key) for key, item in values.items()}
    try:
        return kind(**arguments)
    except ValueError as error:
        raise ValueError(_with_path(name, str(error))) from None


def value(hint: Any, item: Any, name: str) -> Any:
    """`item` as the annotated type. Raises ValueError naming the field, its value and the type."""
    result = _convert(hint, item, name)
    check_type(name, hint, result)
    return result


def nearest(key: str, known: typing.Iterable[str]) -> str:
    """A hint at the known name most like `key`, or an empty text."""
    near = difflib.get_close_matches(key[:LONGEST], list(known), 1)  # its time grows with the key
    return f" (did you mean {near[0]}?)" if near else ""


def _convert(hint: Any, item: Any, name: str) -> Any:
    """A JSON value as the annotated type; unchanged if it does not fit, for the check to refuse."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType) and item is not None:
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        return _convert(inner, item, name)
    if origin is tuple and isinstance(item, list | tuple):
        hints = (arguments[0],) * len(item) if arguments[-1] is Ellipsis else arguments
        if len(hints) != len(item):
            return item
        pairs = enumerate(zip(hints, item, strict=True))
        return tuple(_convert(inner, part, f"{name}[{n}]") for n, (inner, part) in pairs)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), item, name)
    if hint is int and isinstance(item, float) and abs(item) <= EXACT and item.is_integer():
        return int(item)
    if hint is float and type(item) is int and abs(item) <= EXACT:
        return float(item)
    return item


def _with_path(name: str, message: str) -> str:
    """The message of a configuration's check with the path to it, once.

    Some checks say the last name of the path themselves: `lora.rank`.
    """
    own = f"{name.rpartition('.')[2]}."
    return f"{name}.{message.removeprefix(own)}" if name else message
