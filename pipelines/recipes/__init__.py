"""The recipes: functions that return every choice of a run. Vary one with `dataclasses.replace`.

A file a family. Settings come in groups, each of one published system that is named beside it;
docs/recipes.md has all of them side by side, with what is to be expected of a run and its cost.
"""

from collections.abc import Callable

from components.preflight.config import Recipe
from pipelines.recipes.d1 import llada_8b_d1
from pipelines.recipes.illada import illada_8b
from pipelines.recipes.llada import llada_1_5, llada_8b, llada_8b_instruct
from pipelines.recipes.tiny import tiny

__all__ = ["RECIPES", "tiny"]

RECIPES: dict[str, Callable[..., Recipe]] = {
    "tiny": tiny,
    "llada_8b": llada_8b,
    "llada_8b_instruct": llada_8b_instruct,
    "llada_1_5": llada_1_5,
    "illada_8b": illada_8b,
    "llada_8b_d1": llada_8b_d1,
}
