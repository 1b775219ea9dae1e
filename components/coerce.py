"""From JSON to a configuration: exact types, unknown keys refused, every message naming the field.

KFP turns 1 into 1.0, so a whole float is an integer here; 1.5 is not.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")


def build(kind: type[T], values: Any, name: str = "") -> T:
    """An instance of the dataclass `kind` from a JSON object; fields left out keep their default.

    Raises ValueError naming the field, the value and what is allowed.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{name or 'config'}={values!r}, allowed: a JSON object")
    hints = typing.get_type_hints(kind)
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    prefix = f"{name}." if name else ""
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"unknown field {prefix}{key}{hint}; allowed: {_names(fields)}")
    return kind(**{key: value(hints[key], given, prefix + key) for key, given in values.items()})


def value(hint: Any, given: Any, name: str) -> Any:
    """`given` as the annotated type. Raises ValueError naming the field, the value and the type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if given is None and type(None) in arguments:
            return None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return value(inner, given, name)
    if origin is Literal:
        return _expect(given in arguments, given, name, ", ".join(map(str, arguments)), given)
    if origin is tuple:
        return _sequence(arguments, given, name)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), given, name)
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if hint is int:
        whole = is_number and float(given).is_integer()
        return int(_expect(whole, given, name, "a whole number", given))
    if hint is float:
        return float(_expect(is_number, given, name, "a number", given))
    kinds = {bool: "true or false", str: "a text", dict: "a JSON object"}
    return _expect(isinstance(given, hint), given, name, kinds.get(hint, str(hint)), given)


def _sequence(arguments: tuple, given: Any, name: str) -> tuple:
    _expect(isinstance(given, list | tuple), given, name, "a list", given)
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(given)
    _expect(len(given) == len(arguments), given, name, f"a list of {len(arguments)}", given)
    return tuple(
        value(hint, item, f"{name}[{number}]")
        for number, (hint, item) in enumerate(zip(arguments, given, strict=True))
    )


def _expect(good: bool, given: Any, name: str, allowed: str, result: Any) -> Any:
    if not good:
        raise ValueError(f"{name}={given!r}, allowed: {allowed}")
    return result


def _names(fields: set[str]) -> str:
    return ", ".join(sorted(fields))
