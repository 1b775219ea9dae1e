"""Every field with a Literal type refuses other words when its configuration is built in Python."""

import dataclasses
import importlib
import inspect
import typing

import pytest

from components.data.config import Source
from components.trainjob.config import TrainjobConfig
from model.options import Checked
from tests.components.test_limits import REQUIRED, inner
from tests.conftest import ROOT

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in [*ROOT.glob("components/*/config.py"), ROOT / "model/training/config.py"]
)
MODULES += ["model.options", "pipelines.recipes"]
EXAMPLES = {**REQUIRED, "claim": "claim", "image": "image", "preference": "dpo"}


def subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def configurations():
    for module in MODULES:
        importlib.import_module(module)
    return sorted(set(subclasses(Checked)), key=str)


def example(kind):
    """Values for the fields without a default, right in type if not in range."""
    hints = typing.get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if field.default is not dataclasses.MISSING:
            continue
        if dataclasses.is_dataclass(hint):
            values[field.name] = hint(**example(hint))
        else:
            values[field.name] = EXAMPLES.get(field.name, {int: 1, float: 1.0, str: "a"}.get(hint))
    return values


CHOICES = [
    (kind, name)
    for kind in configurations()
    for name, hint in typing.get_type_hints(kind).items()
    if typing.get_origin(inner(hint)) is typing.Literal
]


def test_known_choices_are_among_them():
    assert {(Source, "verifier"), (Source, "format"), (TrainjobConfig, "stage")} <= set(CHOICES)


@pytest.mark.parametrize(("kind", "name"), CHOICES)
def test_another_word_is_refused(kind, name):
    words = ", ".join(typing.get_args(inner(typing.get_type_hints(kind)[name])))
    with pytest.raises(ValueError) as error:
        kind(**{**example(kind), name: "foo"})
    assert str(error.value) == f"{name}='foo', allowed: {words}"


@pytest.mark.parametrize("module", MODULES)
def test_every_configuration_is_checked(module):
    for kind in vars(importlib.import_module(module)).values():
        if inspect.isclass(kind) and dataclasses.is_dataclass(kind):
            assert issubclass(kind, Checked)
