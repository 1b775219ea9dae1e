"""Builds every configuration before the first expensive stage starts, and hands on the release bar.

The command line builds them from JSON, so that every field is valid by itself before `run` starts.
"""

import importlib.util
import json
import os
from collections.abc import Iterator
from inspect import Parameter
from pathlib import Path
from typing import Any

from components import artifact
from components.download.config import DownloadConfig
from components.preflight import between, claims, memory
from components.preflight.between import Context
from components.preflight.config import Recipe
from components.signature import signed, types
from model.options import check

# Preflight has no network: the contexts of the published models are known by their names.
PUBLISHED = {
    "GSAI-ML/LLaDA-8B-Base": 4096,
    "GSAI-ML/LLaDA-8B-Instruct": 4096,
    "GSAI-ML/LLaDA-1.5": 4096,
    "GSAI-ML/iLLaDA-8B-Base": 8192,
    "GSAI-ML/iLLaDA-8B-Instruct": 8192,
}


def flags() -> list[Parameter]:
    """A flag of the command line for every field of `Recipe`, the graph, and the output's path."""
    inputs = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            annotation=hint,
            # A dataclass keeps the default of a field as an attribute of the class.
            default=getattr(Recipe, name, Parameter.empty),
        )
        for name, hint in types(Recipe).items()
    ]
    graph = Parameter("graph", Parameter.KEYWORD_ONLY, annotation=dict)
    path = Parameter("release_accuracy", Parameter.KEYWORD_ONLY, annotation=artifact.Parameter)
    return [*inputs, graph, path]


@signed(flags())
def run(*, graph: dict[str, Any], release_accuracy: Path, **configs: Any) -> None:
    """Checks the configurations of all stages and what must hold between them.

    `graph` names under `adapters` the training stages whose output the pipeline, as it was
    compiled, takes for an adapter; a pipeline is not asked if it is empty.
    """
    recipe = Recipe(**configs)
    base = context_of(recipe.download)
    between.refuse(
        between.lengths(base, recipe),
        between.data(recipe),
        between.scores(recipe),
        between.outputs(recipe, graph),
        missing(recipe),
        beyond(base, recipe),
        claims.missing(recipe.download),
    )
    for doubt in between.doubts(recipe):
        print(f"preflight: note: {doubt}", flush=True)
    if base.tokens is None and getattr(recipe.pretrain, "context", None) is None:
        print(f"preflight: note: {base.origin} is not here, nor its context known", flush=True)
    release_accuracy.write_text(json.dumps(recipe.release.accuracy))
    print("preflight: every configuration is valid", flush=True)


def missing(recipe: Recipe) -> Iterator[str]:
    """Complains of a library that the image of all stages lacks."""
    for name, config in vars(recipe).items():
        adapter = getattr(config, "lora", None)
        if adapter and adapter.quantized and importlib.util.find_spec("bitsandbytes") is None:
            allowed = "false, bitsandbytes is not installed"
            yield between.complaint(f"{name}.lora.quantized", True, allowed)


def beyond(base: Context, recipe: Recipe) -> Iterator[str]:
    """Complains of what the run's pods cannot hold or share out, where their placement is known.

    The local runners place nothing, and their stages have the memory of the machine.
    """
    if "PLACEMENT" not in os.environ or "KUBERNETES_SERVICE_HOST" not in os.environ:
        return
    limits = memory.limits_of(os.environ["PLACEMENT"])
    yield from memory.indivisible(recipe, limits)
    shape = memory.shape_of(recipe.download)
    if shape is not None:
        context = memory.context(base.tokens, recipe)
        yield from memory.does_not_fit(limits, memory.needs(recipe, shape, limits, context))


def context_of(download: DownloadConfig) -> Context:
    """The context of the base model, where that is known without a download.

    Raises ValueError naming a local config.json that cannot be read.
    """
    if download.model == "new":
        return Context(download.shape.context, "download.shape")
    file = Path(download.model) / "config.json"
    if not file.is_file():
        return Context(PUBLISHED.get(download.model), f"download.model={download.model!r}")
    try:
        tokens = json.loads(file.read_text()).get("max_sequence_length", 4096)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file}: not a model's configuration: {error}") from None
    is_length = isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 1
    check(f"{file}: max_sequence_length", tokens, is_length, "1 or more")
    return Context(tokens, str(file))
