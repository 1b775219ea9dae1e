"""A recipe by its name, with settings `stage.field=value` applied and checked. Nothing is run."""

import dataclasses
import json
import typing
from typing import Any

from components import coerce
from components.preflight.config import TRAINING, Recipe
from model.options import Checked, check
from pipelines.recipes import RECIPES

Path = tuple[str, ...]
OFF = "null"


def choose(name: str, *, seed: int = 0, preference: str = "grpo", settings: list[str]) -> Recipe:
    """The named recipe with its settings. Raises ValueError naming what is wrong and allowed."""
    check("RECIPE", name, name in RECIPES, ", ".join(sorted(RECIPES)))
    return override(RECIPES[name](seed=seed, preference=preference), settings)


def override(recipe: Recipe, settings: list[str]) -> Recipe:
    """The recipe with all `stage.field=JSON` settings applied at once, in any order, and checked.

    `preference=WORD` chooses the branch, and `STAGE=null` turns a training stage off. Raises
    ValueError naming the settings that are at fault.
    """
    texts = _parse(recipe, settings)
    changed: dict[str, Any] = {}
    for stage in {path[0]: None for path in texts}:
        config = getattr(recipe, stage)
        own = {path[1:]: text for path, text in texts.items() if path[0] == stage}
        if own.get(()) == OFF:
            others = [f"--set {'.'.join((stage, *path))}" for path in own if path]
            check(f"--set {stage}", OFF, not others, f"null without {' '.join(others)}")
            changed[stage] = None
            continue
        if not dataclasses.is_dataclass(config):
            changed[stage] = _value(own[()])
            continue
        try:
            changed[stage] = _build(type(config), config, own, stage)
        except ValueError as error:
            names = {".".join((stage, *path)): text for path, text in own.items()}
            unnamed = [f"{name}={v}" for name, v in names.items() if name not in str(error)]
            also = f" (with --set {' '.join(unnamed)})" if unnamed else ""
            raise ValueError(f"{error}{also}") from None
    return dataclasses.replace(recipe, **changed)


def _parse(recipe: Recipe, settings: list[str]) -> dict[Path, str]:
    """The text of each setting by its path. Raises ValueError for one that is wrong or repeated."""
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    stages = [name for name, value in fields.items() if dataclasses.is_dataclass(value)]
    texts: dict[Path, str] = {}
    for setting in settings:
        target, _, text = setting.partition("=")
        path = tuple(target.split("."))
        is_known = (path[0] in stages and len(path) > 1) or path == ("preference",)
        is_known |= path[0] in TRAINING and path[1:] == () and text == OFF
        if not is_known or not all(path) or not text:
            near = coerce.nearest(path[0], stages) if path[0] not in stages else ""
            raise ValueError(
                f"--set {setting}{near}, allowed: STAGE.FIELD=VALUE, a stage of {stages}"
            )
        if path in texts:
            raise ValueError(f"--set {setting}, allowed: once; {target}={texts[path]} is set too")
        texts[path] = text
    return texts


def _build(kind: type, config: Any, own: dict[Path, str], stage: str) -> Any:
    """The configuration with its settings; a part is set after its whole, whatever their order.

    A setting that stands for further ones, as `preset` does, replaces the recipe's values of these.
    """
    fields = {path[0]: _value(text) for path, text in own.items() if len(path) == 1}
    implied = kind.completed(fields) if issubclass(kind, Checked) else fields
    values = json.loads(json.dumps({**dataclasses.asdict(config), **implied}))
    for path in sorted(own, key=len):
        values = _set(kind, values, path, _value(own[path]))
    return coerce.build(kind, values, stage)


def _value(text: str) -> Any:
    """The text read as JSON, or as it is where it is none: a word needs no quotes."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _set(kind: type, values: dict, path: Path, value: object) -> dict:
    """`values` of the dataclass `kind` with one changed; null counts as the default one."""
    head, *rest = path
    inner, current = _nested(kind, head), values.get(head)
    if not rest or inner is None:
        return {**values, ".".join(path): value}
    if current is not None and not isinstance(current, dict):
        return values  # of a wrong type: `coerce.build` refuses it
    return {**values, head: _set(inner, current or {}, tuple(rest), value)}


def _nested(kind: type, name: str) -> type | None:
    """The class of the configuration in a field of `kind`, None for any other field."""
    hint = typing.get_type_hints(kind).get(name)
    options = (hint, *typing.get_args(hint)) if typing.get_origin(hint) is not tuple else ()
    kinds = (option for option in options if isinstance(option, type))
    return next(filter(dataclasses.is_dataclass, kinds), None)
