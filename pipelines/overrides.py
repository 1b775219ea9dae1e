"""A recipe by its name, with `stage.field=value` settings applied and checked; nothing runs."""

import dataclasses
import json
import typing
from typing import Any

from components import coerce
from pipelines.recipes import RECIPES, Recipe


def choose(name: str, *, seed: int = 0, preference: str = "grpo", settings: list[str]) -> Recipe:
    """The named recipe with its settings. Raises ValueError naming what is wrong and allowed."""
    if name not in RECIPES:
        raise ValueError(f"RECIPE={name}, allowed: {', '.join(sorted(RECIPES))}")
    return override(RECIPES[name](seed=seed, preference=preference), settings)


def override(recipe: Recipe, settings: list[str]) -> Recipe:
    """The recipe with `stage.field=JSON` settings applied, each checked against its type."""
    hints = typing.get_type_hints(type(recipe))
    names = [name for name, hint in hints.items() if dataclasses.is_dataclass(hint)]
    for setting in settings:
        target, _, text = setting.partition("=")
        stage, _, field = target.partition(".")
        if stage not in names or not field or not text:
            raise ValueError(f"--set {setting}, allowed: STAGE.FIELD=VALUE, a stage of {names}")
        config = getattr(recipe, stage)
        as_json = json.loads(json.dumps(dataclasses.asdict(config)))
        given = _set(as_json, field.split("."), _value(text))
        changed = coerce.build(type(config), given, stage)
        recipe = dataclasses.replace(recipe, **{stage: changed})
    return recipe


def _value(text: str) -> Any:
    """JSON where it is JSON, else the text itself: quotes around a word are not asked for."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _set(values: dict, path: list[str], given: object) -> dict:
    head, *rest = path
    if rest and isinstance(values.get(head), dict):
        return {**values, head: _set(values[head], rest, given)}
    return {**values, ".".join(path): given}
