"""How a model is asked: every option of the sampler, from words of a command line or of a chat.

A value is refused by name before a model is opened; what only the model can tell (its vocabulary,
its context) is checked by `asking`.
"""

import argparse
import dataclasses
import json
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from components import cli, coerce
from model.options import Cache, Checked, Remasking, check, check_text

AUTO = "auto"
SWITCH = {"on": True, "off": False, "true": True, "false": False}
# What a run's own evaluation, or GRPO, says about how its model is sampled.
SAMPLING = ("gen_length", "block_length", "threshold", "cache")


@dataclass(frozen=True, kw_only=True)
class AskOptions(Checked):
    """How an answer is sampled and shown. The defaults are those of an evaluation."""

    gen_length: int | None = 256
    """New tokens of an answer, or auto: as many as the model seems to need (model/canvas.py)."""
    block_length: int = 16
    """Tokens denoised together, a block after a block."""
    steps: int | None = None
    """Most passes over all blocks; null is one a token."""
    temperature: float = 0.0
    """Spread of the draw; 0 takes the likeliest token."""
    cfg_scale: float = 0.0
    """Classifier-free guidance: how far an answer moves away from one without the prompt."""
    remasking: Remasking = "low_confidence"
    """Which positions wait: those of low confidence, or random ones."""
    cache: Cache = "prefix"
    """Which keys and values are kept between the passes of a block."""
    threshold: float | None = None
    """Confidence from which a token is committed at once."""
    factor: float | None = None
    """Commits the n surest tokens while (n + 1)(1 - confidence of the n-th) is below it."""
    repetition_penalty: float = 1.0
    """Divides the chances of tokens that are there already; 1 changes nothing."""
    seed: int = 0
    """Seed of the draws."""
    forbidden_tokens: tuple[str, ...] = ()
    """Tokens of the vocabulary that are never written, as <|endoftext|>."""
    deferred_tokens: tuple[str, ...] = ()
    """Tokens of the vocabulary that are written after all others."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; they are cut off with what follows."""
    system: str | None = None
    """A system message before the first question."""
    think: bool = True
    """Whether the thought is shown before the solution."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, good, allowed in (
            ("gen_length", self.gen_length is None or self.gen_length >= 1, "1 or more, or auto"),
            ("block_length", self.block_length >= 1, "1 or more"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("cfg_scale", self.cfg_scale >= 0, "0 or more"),
            ("threshold", self.threshold is None or 0 <= self.threshold <= 1, "0 to 1"),
            ("factor", self.factor is None or self.factor > 0, "above 0"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0"),
            ("seed", 0 <= self.seed < 2**32, "0 to 2^32 - 1"),
            ("stop", all(self.stop), "texts of a character or more"),
        ):
            check(name, getattr(self, name), good, allowed)
        blocks = -(-(self.gen_length or 1) // self.block_length)
        enough = self.steps is None or self.steps >= blocks
        check("steps", self.steps, enough, f"one or more a block, {blocks}")
        both = self.threshold is not None and self.factor is not None
        check("factor", self.factor, not both, f"null beside threshold={self.threshold}")
        check_text("system", self.system)

    def __str__(self) -> str:
        """The options that decide the speed of an answer, and all others that are not default."""
        own = dataclasses.asdict(self)
        usual = dataclasses.asdict(AskOptions())
        named = [name for name in own if name in SAMPLING or own[name] != usual[name]]
        return " ".join(f"{name}={_shown(name, own[name])}" for name in named)


def defaults(sampling: Mapping[str, Any]) -> AskOptions:
    """The options as a model's run sampled from it; those of `AskOptions` where none are known."""
    known = {name: sampling[name] for name in SAMPLING if name in sampling}
    return coerce.build(AskOptions, known)


def changed(options: AskOptions, texts: Mapping[str, Sequence[str]]) -> AskOptions:
    """The options with those in `texts` replaced, each by its words.

    Raises ValueError naming the option, its value and what is allowed.
    """
    hints = typing.get_type_hints(AskOptions)
    for name in texts:
        if name not in hints:
            near, known = coerce.nearest(name, hints), ", ".join(hints)
            raise ValueError(f"unknown option {name:.100}{near}; allowed: {known}")
    values = {name: _value(name, hints[name], words) for name, words in texts.items()}
    if "factor" in values and values["factor"] is not None:
        values.setdefault("threshold", None)  # a run's own threshold gives way to what is said
    if "threshold" in values and values["threshold"] is not None:
        values.setdefault("factor", None)
    return coerce.build(AskOptions, dataclasses.asdict(options) | values)


def _value(name: str, hint: Any, words: Sequence[str]) -> Any:
    """The value that words mean: texts as they are, all else as JSON."""
    last = words[-1]
    if typing.get_origin(hint) is tuple:
        return () if last == "null" else tuple(words)
    if last == "null" or (name == "gen_length" and last == AUTO):
        check(name, last, name != "gen_length" or last == AUTO, "a whole number, or auto")
        return None
    if hint is bool:
        return SWITCH.get(last, last)
    if name in ("system", "remasking", "cache"):
        return last
    try:
        return json.loads(last)
    except (ValueError, RecursionError):
        return last


def _shown(name: str, value: Any) -> str:
    if name == "gen_length" and value is None:
        return AUTO
    return "null" if value is None else json.dumps(value, ensure_ascii=False).strip('"')


def described(options: AskOptions) -> list[str]:
    """Every option with its value, a line each."""
    own = dataclasses.asdict(options)
    return [
        f"{name}={_shown(name, own[name])}  {meaning}"
        for name, _, _, meaning in cli.fields(AskOptions)
    ]


class Parser(argparse.ArgumentParser):
    """A command line of MODEL, adapters and options, whose refusals are one line each."""

    def __init__(self, program: str, description: str | None) -> None:
        super().__init__(
            prog=program,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("model", metavar="MODEL", help="a model's directory, or a run's")
        self.add_argument(
            "--adapter",
            action="append",
            default=[],
            metavar="DIR",
            help="an adapter of MODEL; several are applied in their order",
        )
        self.add_argument(
            "--show", action="store_true", help="draw the answer as it denoises, pass by pass"
        )
        for name, hint, default, meaning in cli.fields(AskOptions):
            usual = {"None": "null", "()": "none"}.get(default, default.strip("'"))
            self.add_argument(
                f"--{name.replace('_', '-')}",
                action="append",
                metavar="TEXT" if "str" in hint else "VALUE",
                help=f"{meaning} [{'as its run sampled, or ' * (name in SAMPLING)}{usual}]",
            )

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; --help names every option")


def given(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The words of every option that stands on the command line."""
    names = (field.name for field in dataclasses.fields(AskOptions))
    return {name: words for name in names if (words := getattr(arguments, name)) is not None}
