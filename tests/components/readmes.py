"""The tables of the stages' READMEs, made from the code.

`python -m tests.components.readmes` writes them; a test compares them.
"""

import dataclasses
import importlib
import inspect
import re
import typing
from pathlib import Path

from components import cli

COMPONENTS = Path(__file__).parents[2] / "components"
HEAD = "| field | type | default | meaning |\n|---|---|---|---|\n"
TABLES = re.compile(rf"{re.escape(HEAD)}.*?(?=^    python -m |^## )", re.DOTALL | re.MULTILINE)


def tables(stage):
    """The configuration's fields, and below them those of each type that they hold, once."""
    run = importlib.import_module(f"components.{stage}.stage").run
    hints = typing.get_type_hints(run).values()
    (config,) = (hint for hint in hints if dataclasses.is_dataclass(hint))
    nested = dict.fromkeys(_nested(config))
    if not dataclasses.fields(config):
        return ""
    return table(config) + "".join(
        f"\n### {kind.__name__}\n\n{_summary(kind)}\n\n{table(kind)}" for kind in nested
    )


def table(kind):
    """A configuration's fields as a table; the type of a nested one is a link to its own table."""
    hints = typing.get_type_hints(kind)
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    rows = []
    for name, hint, default, meaning in cli.fields(kind):
        shown = f"`{hint}`".replace("|", "\\|")
        for inner in _configurations(hints[name]):
            shown, default = f"[{shown}](#{inner.__name__.lower()})", _changes(defaults[name])
        rows.append(f"| `{name}` | {shown} | `{default}` | {meaning} |\n")
    return HEAD + "".join(rows)


def _changes(value):
    """A configuration as its author writes it: only what departs from the defaults of its type."""
    if not dataclasses.is_dataclass(value):
        return repr(value)
    pairs = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
    changed = (f"{field.name}={_changes(v)}" for field, v in pairs if v != field.default)
    return f"{type(value).__name__}({', '.join(changed)})"


def _nested(kind):
    """Every configuration that a configuration holds, the outer ones first."""
    for hint in typing.get_type_hints(kind).values():
        for inner in _configurations(hint):
            yield inner
            yield from _nested(inner)


def _configurations(hint):
    """The dataclasses that a type names: Shape, Lora | None, tuple[Source, ...]."""
    return [kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)]


def _summary(kind):
    return " ".join(inspect.getdoc(kind).partition("\n\n")[0].split())


def write():
    """Puts today's tables into the README of every stage that has one."""
    for page in sorted(COMPONENTS.glob("*/README.md")):
        before, *rest = TABLES.split(page.read_text())
        if rest:
            page.write_text(before + tables(page.parent.name) + "\n" + rest[0])


if __name__ == "__main__":
    write()
