"""What every configuration promises of its fields: their types, and numbers finite and bounded.

Standard library only. Which range within that a field has stands in its own configuration.
"""

import dataclasses
import functools
import types
import typing
from typing import Any, Literal, Union

LARGEST = 10**9
"""Largest size of a number: no amount in a run comes near it, and 1e300 is a slip."""
WIDER = {"seed": 2**63 - 1}
"""Fields whose numbers are names and no amounts."""
LONGEST_TEXT, LONGEST_LIST = 100_000, 1_000
SHOWN = 200  # characters of a refused value


def check(name: str, value: object, good: bool, allowed: str) -> None:
    """Raises ValueError naming the field, its value and what is allowed, unless it is good."""
    if not good:
        shown = repr(value)
        shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
        raise ValueError(f"{name}={shown}, allowed: {allowed}")


def check_text(name: str, value: str | None, allowed: str = "a text") -> None:
    """Raises ValueError for a text of white space alone; null is the type's business."""
    check(name, value, value is None or bool(value.strip()), allowed)


class Checked:
    """The base of every configuration: what is built holds values of the annotated types.

    A subclass that has checks of its own calls this one's first.
    """

    def __post_init__(self) -> None:
        kind: type = type(self)
        for name, hint in _hints(kind).items():
            check_type(name, hint, getattr(self, name))


def check_type(name: str, hint: Any, value: object) -> None:
    """Raises ValueError unless `value` is of the annotated type, finite and bounded.

    Types are int, float, bool, str, dict, Literal, dataclasses, and tuples and options of them.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        if value is not None:
            check_type(name, inner, value)
    elif origin is Literal:
        check(name, value, value in arguments, ", ".join(map(str, arguments)))
    elif origin is tuple:
        _check_items(name, arguments, value)
    elif hint in (int, float):
        _check_number(name, hint, value)
    elif hint is str:
        _check_characters(name, value)
    else:
        allowed = {bool: "true or false", dict: "a JSON object"}.get(hint, hint.__name__)
        check(name, value, isinstance(value, hint), allowed)


def _check_items(name: str, hints: tuple, value: Any) -> None:
    is_list = isinstance(value, tuple | list)
    if hints[-1] is Ellipsis:
        allowed = f"a list of at most {LONGEST_LIST}"
        check(name, value, is_list and len(value) <= LONGEST_LIST, allowed)
        hints = (hints[0],) * len(value)
    check(name, value, is_list and len(value) == len(hints), f"a list of {len(hints)}")
    for number, (hint, item) in enumerate(zip(hints, value, strict=True)):
        check_type(f"{name}[{number}]", hint, item)


def _check_number(name: str, hint: type, value: Any) -> None:
    """NaN and the infinities fail the comparison with the largest."""
    largest = WIDER.get(name, LARGEST)
    kinds, called = (int, "whole") if hint is int else (int | float, "finite")
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    allowed = f"a {called} number, in size up to {largest}"
    check(name, value, is_number and abs(value) <= largest, allowed)


def _check_characters(name: str, value: Any) -> None:
    """Neither paths nor JSON files can hold a NUL or half of a surrogate pair."""
    good = isinstance(value, str) and len(value) <= LONGEST_TEXT and "\0" not in value
    good = good and value.encode(errors="ignore").decode() == value
    check(name, value, good, f"a text of up to {LONGEST_TEXT} characters, each one of Unicode's")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
