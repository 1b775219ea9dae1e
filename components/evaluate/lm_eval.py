"""lm_eval's own command line with our models: everything that it offers, for its users.

    python -m components.evaluate.lm_eval --model llada --tasks gsm8k --num_fewshot 5 \\
        --model_args path=MODEL,adapter=ADAPTER,gen_length=256,block_length=32

lm_eval 0.4.13 knows the models of its own table and has no way to name further ones on
`python -m lm_eval`; this module registers `llada` and then is lm_eval. `path` is a model's
directory, ours or in upstream's format; `adapter` one adapter or several, separated by colons and
applied in their order. All other arguments are fields of `EvaluateConfig`; values of lists are
separated by +, as in deferred=eos+eot. Programs of code tasks run in our sandbox.
"""

import atexit
import os
import sys
import typing
from pathlib import Path
from typing import Any

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model

from components import adapted, coerce
from components.evaluate import code
from components.evaluate.config import EvaluateConfig
from components.evaluate.harness import DiffusionLM
from components.evaluate.team import join
from components.failure import as_line, explain
from model.options import check

OWN = ("tasks", "task_files", "fewshot", "fewshot_multiturn", "system", "limit", "traces")
"""Fields that lm_eval's command line has options for."""


@register_model("llada")
class LLaDAModel(DiffusionLM):
    """A model that lm_eval opens by its arguments.

    Under torchrun the other processes work for the first one from here on, and end with it.
    """

    def __init__(
        self,
        path: str = "",
        adapter: str = "",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **fields: Any,
    ) -> None:
        """The arguments of `--model_args`, and those of lm_eval's own options.

        Raises ValueError naming an argument that cannot be.
        """
        check("path", path, bool(path), "the directory of a model")
        check("batch_size", batch_size, str(batch_size).isdecimal(), "a number of answers")
        config = configuration({"batch_size": int(batch_size), **fields})
        team = join()
        place = "cpu" if device == "cpu" else team.device  # lm_eval says cuda:0 by default
        network, tokenizer = adapted.load(
            Path(path),
            [Path(name) for name in adapter.split(os.pathsep) if name],
            dtype=torch.float32 if place == "cpu" else torch.bfloat16,
            device=place,
        )
        super().__init__(network, tokenizer, config, team=team)
        if team.rank:
            self.serve()
            raise SystemExit(0)
        atexit.register(self.close)


def configuration(fields: dict[str, Any]) -> EvaluateConfig:
    """The configuration of `--model_args`. Raises ValueError naming the field."""
    for name in OWN:
        check(name, fields.get(name), name not in fields, "an option of lm_eval's own command line")
    hints = typing.get_type_hints(EvaluateConfig)
    lists = [name for name, hint in hints.items() if typing.get_origin(hint) is tuple]
    split = {
        name: value.split("+") if name in lists and isinstance(value, str) else value
        for name, value in fields.items()
    }
    return coerce.build(EvaluateConfig, split)


def main() -> None:
    """The command line; exit code 2 for bad input, in one line."""
    try:
        with code.confined(True):
            cli_evaluate()
    except (ValueError, OSError) as error:
        print(f"lm_eval: error: {as_line(explain(error))}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
