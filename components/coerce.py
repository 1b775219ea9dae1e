"""From JSON to a configuration: unknown keys refused, every message naming the field by its path.

KFP turns 1 into 1.0, so a whole float is an integer here; 1.5 is not. What a value may be is the
configuration's own check (`model.options`).
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, Union

from model.options import check, check_type

T = TypeVar("T")
EXACT = 2**53  # up to here a float holds every whole number


def build(kind: type[T], values: Any, name: str = "") -> T:
    """An instance of the dataclass `kind` from a JSON object; fields left out keep their default.

    Raises ValueError naming the field, the value and what is allowed.
    """
    check(name or "config", values, isinstance(values, Mapping), "a JSON object")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    prefix = f"{name}." if name else ""
    for key in values:
        if key not in fields:
            hint, known = nearest(key, fields), ", ".join(sorted(fields))
            raise ValueError(f"unknown field {prefix}{key:.100}{hint}; allowed: {known}")
    for key, field in fields.items():
        if key not in values and field.default is dataclasses.MISSING:
            raise ValueError(f"{prefix}{key} is missing, and has no default")
    given = {key: _converted(hints[key], item, prefix + key) for key, item in values.items()}
    try:
        return kind(**given)
    except ValueError as error:
        raise ValueError(_placed(name, str(error))) from None


def value(hint: Any, given: Any, name: str) -> Any:
    """`given` as the annotated type. Raises ValueError naming the field, the value and the type."""
    converted = _converted(hint, given, name)
    check_type(name, hint, converted)
    return converted


def nearest(key: str, known: typing.Iterable[str]) -> str:
    """A hint at the known name that is most like `key`, empty where none is."""
    near = difflib.get_close_matches(key, list(known), 1)
    return f" (did you mean {near[0]}?)" if near else ""


def _converted(hint: Any, given: Any, name: str) -> Any:
    """JSON's lists, numbers and objects in the type's own kind; what does not fit, as it is."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType) and given is not None:
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        return _converted(inner, given, name)
    if origin is tuple and isinstance(given, list | tuple):
        hints = (arguments[0],) * len(given) if arguments[-1] is Ellipsis else arguments
        if len(hints) != len(given):
            return given
        pairs = enumerate(zip(hints, given, strict=True))
        return tuple(_converted(inner, item, f"{name}[{n}]") for n, (inner, item) in pairs)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), given, name)
    if hint is int and isinstance(given, float) and abs(given) <= EXACT and given.is_integer():
        return int(given)
    if hint is float and type(given) is int and abs(given) <= EXACT:
        return float(given)
    return given


def _placed(name: str, message: str) -> str:
    """The message of a configuration's check with the path to it; some say their name already."""
    own = f"{name.rpartition('.')[2]}."
    return f"{name}.{message.removeprefix(own)}" if name else message
