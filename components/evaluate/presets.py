"""Published protocols by name: the fields that each sets, and the figure that it should give.

The names are those of the rows of LLaDA's EVAL.md: model, task, and what tells the row from others
of the same task (its number of new tokens, `cfg` for guidance, `semi` for semi-autoregressive
blocks). The settings come from that page and from the scripts that it names,
`eval_llada_lm_eval.sh` and the examples in `opencompass/`; no protocol uses a cache or commits more
than one token a pass.

The base model was measured with lm_eval, by the tasks named here. The instructed models were
measured with the authors' own toolkit and with OpenCompass, whose prompts lm_eval does not have:
there the nearest task of lm_eval is named, with OpenCompass's number of worked examples as turns of
the chat where it has any, and the figure is OpenCompass's.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.options import check


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a published figure was measured."""

    fields: Mapping[str, Any]
    """Fields of an evaluation's configuration."""
    score: float
    """The published score, 0 to 1."""
    prompts: str = "lm_eval"
    """Whose prompts gave the published score: those of lm_eval, or of opencompass."""


SAMPLED = {"cache": "none"}
BASE = {**SAMPLED, "form": "text"}
LIKELIHOOD = {**BASE, "draw": "reference", "samples": 128, "likelihood_batch": 8}
ONE_TOKEN = {**BASE, "draw": "reference", "samples": 1, "likelihood_batch": 1}
"""Answers of a single token have one noisy sequence: a sample of it is enough."""
CHAT = {**SAMPLED, "form": "chat"}


def _scored(task: str, fewshot: int, plain: float, guided: float | None, scale: float) -> dict:
    """A task by likelihood: without guidance, and with it where that was published."""
    fields = {**LIKELIHOOD, "tasks": (task,), "fewshot": fewshot}
    name = f"llada-base-{task}"
    protocols = {name: Protocol(fields=fields, score=plain)}
    if guided is not None:
        own = {**fields, "likelihood_cfg_scale": scale}
        protocols[f"{name}-cfg"] = Protocol(fields=own, score=guided)
    return protocols


def _subjects(task: str, score: float) -> dict:
    """A collection of questions with the choices A to D."""
    fields = {**ONE_TOKEN, "tasks": (task,), "fewshot": 5}
    return {f"llada-base-{task}": Protocol(fields=fields, score=score)}


def _generated(task: str, scores: Mapping[int, float], **fields: Any) -> dict:
    """A task by generation with 1024, 512 and 256 new tokens, all of them one block."""
    return {
        f"llada-base-{task}{'' if length == 1024 else f'-{length}'}": Protocol(
            fields={**BASE, "tasks": (task,), **_lengths(length, length), **fields}, score=score
        )
        for length, score in scores.items()
    }


def _asked(score: float, task: str, length: int, block: int, **fields: Any) -> Protocol:
    """A task put to an instructed model."""
    own = {**CHAT, "tasks": (task,), **_lengths(length, block), **fields}
    return Protocol(fields=own, score=score, prompts="opencompass")


def _lengths(length: int, block: int) -> dict[str, Any]:
    return {"gen_length": length, "block_length": block}


SHOTS = {"fewshot": 4, "fewshot_multiturn": True}
NO_EARLY_END = {"deferred": ("eos", "eot")}  # upstream's confidence_eos_eot_inf
NO_EOS = {"forbidden": ("eos",)}  # upstream's logits_eos_inf

PROTOCOLS: dict[str, Protocol] = {
    **_scored("arc_challenge", 0, 0.459, 0.479, 0.5),
    **_scored("hellaswag", 0, 0.705, 0.725, 0.5),
    **_scored("truthfulqa_mc2", 0, 0.461, 0.464, 2.0),
    **_scored("winogrande", 5, 0.748, None, 0.0),
    **_scored("gpqa_main_n_shot", 5, 0.252, 0.261, 0.5),
    **_scored("piqa", 0, 0.736, 0.744, 0.5),
    **_subjects("mmlu", 0.659),
    **_subjects("cmmlu", 0.699),
    **_subjects("ceval-valid", 0.705),
    **_generated("bbh", {1024: 0.497, 512: 0.504, 256: 0.450}),
    **_generated("gsm8k", {1024: 0.703, 512: 0.708, 256: 0.700}),
    **_generated("minerva_math", {1024: 0.314, 512: 0.309, 256: 0.303}),
    **_generated("humaneval", {1024: 0.354, 512: 0.329, 256: 0.329}),
    **_generated("mbpp", {1024: 0.400, 512: 0.392, 256: 0.402}),
    "llada-instruct-arc_challenge": _asked(0.892, "arc_challenge_chat", 512, 512),
    "llada-instruct-gsm8k": _asked(0.688, "gsm8k_cot", 512, 512, **SHOTS, **NO_EARLY_END),
    "llada-instruct-gsm8k-semi": _asked(0.789, "gsm8k_cot", 256, 8, **SHOTS),
    "llada-instruct-minerva_math": _asked(0.296, "minerva_math", 512, 512, **SHOTS, **NO_EARLY_END),
    "llada-instruct-minerva_math-semi": _asked(0.427, "minerva_math", 512, 64, **SHOTS),
    "llada-instruct-humaneval": _asked(0.470, "humaneval_instruct", 512, 512, **NO_EOS),
    "llada-instruct-mbpp": _asked(0.396, "mbpp_instruct", 256, 256, **NO_EARLY_END),
    "llada-instruct-mmlu_pro": _asked(0.366, "mmlu_pro", 256, 256),
    "llada-1.5-gsm8k": _asked(0.836, "gsm8k_cot", 256, 16, **SHOTS, **NO_EARLY_END),
    "llada-1.5-minerva_math": _asked(0.423, "minerva_math", 1024, 128, **SHOTS, **NO_EARLY_END),
    "llada-1.5-humaneval": _asked(0.512, "humaneval_instruct", 512, 32, **NO_EARLY_END),
    "llada-1.5-mbpp": _asked(0.426, "mbpp_instruct", 512, 32, **NO_EARLY_END),
    "llada-1.5-ifeval": _asked(0.652, "ifeval", 256, 16, **NO_EARLY_END),
}


def protocol(name: str) -> Protocol:
    """The protocol of this name. Raises ValueError for an unknown one."""
    near = ", ".join(difflib.get_close_matches(name, PROTOCOLS, 3, cutoff=0))
    allowed = f"a preset of components/evaluate/presets.py; the nearest are {near}"
    check("preset", name, name in PROTOCOLS, allowed)
    return PROTOCOLS[name]
