"""A model as it goes through the graph: a base, and the adapters trained on it in turn."""

from collections.abc import Callable
from typing import Any, NamedTuple

from components.container import numbered
from model.training.config import Training


class Weights(NamedTuple):
    """The output of a task that is a whole model, and those of later ones that are adapters."""

    base: Any
    adapters: tuple[Any, ...] = ()

    def into(self, component: Callable[[int], Any], *, role: str = "base", **inputs: Any) -> Any:
        """The task of a stage that takes the model; `component` makes it for so many adapters."""
        chain = numbered(self.adapters)
        return component(len(chain))(**{role: self.base}, **chain, **inputs)

    def after(self, trained: Any, config: Training) -> "Weights":
        """The model with the output of a training stage: an adapter, or another whole model."""
        if config.lora is None:
            return Weights(trained)
        return Weights(self.base, (*self.adapters, trained))
