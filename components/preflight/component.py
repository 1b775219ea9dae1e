"""The preflight stage as a pipeline component."""

from collections.abc import Mapping
from inspect import Parameter
from typing import Any

from kfp import dsl

from components.container import NONE, container
from components.preflight.config import Recipe
from components.signature import json_types, signed


def component(recipe: type, constants: Mapping[str, str] = NONE) -> Any:
    """The component that takes the fields of the dataclass `recipe`, one input each.

    Fields in `constants` are no inputs: their text is part of the command.
    """
    outputs = {"release_accuracy": dsl.OutputPath(float)}
    parameters = [
        Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=hint)
        for name, hint in {**json_types(recipe), **outputs}.items()
        if name not in constants
    ]

    @dsl.container_component
    @signed(parameters)
    def preflight(*, release_accuracy: Any, **configs: Any) -> dsl.ContainerSpec:
        """Builds every configuration, so that a bad value fails before anything is trained."""
        files = {"release_accuracy": release_accuracy}
        return container("preflight", configs={**configs, **constants}, parameters=files)

    return preflight


preflight = component(Recipe)
