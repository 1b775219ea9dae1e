"""A recipe by its name, with `stage.field=value` settings applied and checked; nothing runs."""

import dataclasses
import json
import typing
from typing import Any

from components import coerce
from pipelines.recipes import RECIPES, Recipe

Path = tuple[str, ...]


def choose(name: str, *, seed: int = 0, preference: str = "grpo", settings: list[str]) -> Recipe:
    """The named recipe with its settings. Raises ValueError naming what is wrong and allowed."""
    if name not in RECIPES:
        raise ValueError(f"RECIPE={name}, allowed: {', '.join(sorted(RECIPES))}")
    return override(RECIPES[name](seed=seed, preference=preference), settings)


def override(recipe: Recipe, settings: list[str]) -> Recipe:
    """The recipe with all `stage.field=JSON` settings applied at once, in any order, and checked.

    `preference=WORD` chooses the branch. Raises ValueError naming the settings that are at fault.
    """
    given = _parsed(recipe, settings)
    changed: dict[str, Any] = {}
    for stage in {path[0]: None for path in given}:
        config = getattr(recipe, stage)
        own = {path[1:]: text for path, text in given.items() if path[0] == stage}
        if not dataclasses.is_dataclass(config):
            changed[stage] = _value(own[()])
            continue
        try:
            changed[stage] = _built(type(config), config, own, stage)
        except ValueError as error:
            names = {".".join((stage, *path)): text for path, text in own.items()}
            unnamed = [f"{name}={v}" for name, v in names.items() if name not in str(error)]
            also = f" (with --set {' '.join(unnamed)})" if unnamed else ""
            raise ValueError(f"{error}{also}") from None
    return dataclasses.replace(recipe, **changed)


def _parsed(recipe: Recipe, settings: list[str]) -> dict[Path, str]:
    """The text of each setting by its path. Raises ValueError for a form, a stage or a repeat."""
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    stages = [name for name, value in fields.items() if dataclasses.is_dataclass(value)]
    given: dict[Path, str] = {}
    for setting in settings:
        target, _, text = setting.partition("=")
        path = tuple(target.split("."))
        is_known = (path[0] in stages and len(path) > 1) or path == ("preference",)
        if not is_known or not all(path) or not text:
            near = coerce.nearest(path[0], stages) if path[0] not in stages else ""
            raise ValueError(
                f"--set {setting}{near}, allowed: STAGE.FIELD=VALUE, a stage of {stages}"
            )
        if path in given:
            raise ValueError(f"--set {setting}, allowed: once; {target}={given[path]} is set too")
        given[path] = text
    return given


def _built(kind: type, config: Any, own: dict[Path, str], stage: str) -> Any:
    """The configuration anew; what lies deeper is set later, so that the order says nothing."""
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    for path in sorted(own, key=len):
        values = _set(kind, values, path, _value(own[path]))
    return coerce.build(kind, values, stage)


def _value(text: str) -> Any:
    """JSON where it is JSON, else the text itself: quotes around a word are not asked for."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _set(kind: type, values: dict, path: Path, given: object) -> dict:
    """`values` of the dataclass `kind` with one set; a null configuration begins as its default."""
    head, *rest = path
    inner, found = _nested(kind, head), values.get(head)
    if not rest or inner is None:
        return {**values, ".".join(path): given}
    if found is not None and not isinstance(found, dict):
        return values  # is refused as it is
    return {**values, head: _set(inner, found or {}, tuple(rest), given)}


def _nested(kind: type, name: str) -> type | None:
    """The configuration that a field of `kind` holds, if it holds one."""
    hint = typing.get_type_hints(kind).get(name)
    options = (hint, *typing.get_args(hint)) if typing.get_origin(hint) is not tuple else ()
    kinds = (option for option in options if isinstance(option, type))
    return next(filter(dataclasses.is_dataclass, kinds), None)
