"""The run form: a parameter for every field of the recipe, with its value as the default.

A word stays a word and a configuration becomes one JSON object, so that a field which is added to
`components/preflight/config.py` appears in the form, described by its own text.
"""

import dataclasses
import json
from collections.abc import Callable
from inspect import Parameter
from typing import Any

from components import cli
from components.preflight.config import Recipe
from components.signature import json_types, signed


def form(recipe: Recipe) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a pipeline, written as a function of keywords, the parameters of the form."""
    defaults = arguments(recipe)
    parameters = [
        Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=hint, default=defaults[name])
        for name, hint in json_types(type(recipe)).items()
        if name in defaults
    ]

    def decorate(pipeline: Callable[..., None]) -> Callable[..., None]:
        call = signed(parameters)(pipeline)
        call.__doc__ = f"{pipeline.__doc__}\n\nArgs:\n{_descriptions(recipe)}"
        return call

    return decorate


def arguments(recipe: Recipe) -> dict[str, Any]:
    """The recipe as the arguments of the pipeline: one JSON object a stage that is on."""
    fixed = constants(recipe)
    return {name: _as_json(value) for name, value in vars(recipe).items() if name not in fixed}


def constants(recipe: Recipe) -> dict[str, str]:
    """What the graph has decided and the form does not offer, as preflight's command has it.

    These are the stages that are off, the preference unless there are two to choose from, and which
    stages train an adapter.
    """
    choice = {} if len(recipe.methods) == 2 else {"preference": recipe.preference}
    graph = {"graph": json.dumps({"adapters": recipe.adapters})}
    return {**dict.fromkeys(recipe.off, "null"), **choice, **graph}


def _descriptions(recipe: Recipe) -> str:
    """A line for every parameter; a configuration with fields names the page that lists them."""
    lines = []
    fixed = constants(recipe)
    for name, _, _, meaning in cli.fields(type(recipe)):
        if name in fixed:
            continue
        config = getattr(recipe, name)
        folder = type(config).__module__.removesuffix(".config").replace(".", "/")
        has_fields = dataclasses.is_dataclass(config) and dataclasses.fields(config)
        page = f" Fields: {folder}/README.md." if has_fields else ""
        lines.append(f"    {name}: {meaning}{page}")
    return "\n".join(lines)


def _as_json(value: Any) -> Any:
    """A configuration as JSON. KFP has no null, so a field that is None must be None by default."""
    if not dataclasses.is_dataclass(value):
        return [_as_json(item) for item in value] if isinstance(value, tuple) else value
    values = {}
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        assert inner is not None or field.default is None, field.name
        if inner is not None:
            values[field.name] = _as_json(inner)
    return values
