"""Functions whose parameters are the fields of a dataclass, so that a new field needs no new line.

The command line of a stage and KFP both read a function's signature; neither accepts `**configs`.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterable
from inspect import Parameter
from types import UnionType
from typing import Any

Function = Callable[..., Any]


def signed(parameters: Iterable[Parameter]) -> Callable[[Function], Function]:
    """Gives a function of keywords these parameters, which may then be passed by position too."""
    signature = inspect.Signature(list(parameters))

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*values: Any, **named: Any) -> Any:
            return function(**signature.bind(*values, **named).arguments)

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return call

    return decorate


def types(kind: type) -> dict[str, Any]:
    """The type of every field of the dataclass `kind`, in their order."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def json_types(kind: type) -> dict[str, type]:
    """The same as KFP sees them: a JSON object for a configuration, a text for a word."""
    return {
        name: str if configuration(hint) is None else dict for name, hint in types(kind).items()
    }


def configuration(hint: Any) -> type | None:
    """The dataclass that a field of this type holds, or may hold; None for any other type."""
    options = typing.get_args(hint) if typing.get_origin(hint) is UnionType else (hint,)
    kinds = (option for option in options if isinstance(option, type))
    return next(filter(dataclasses.is_dataclass, kinds), None)
