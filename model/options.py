"""Options of adapters, losses and sampling, and the checks that every configuration goes through.

Standard library only, so that a configuration can be refused before torch is imported. The base
class `Checked` checks the types of all fields, and that numbers are finite and bounded; each
configuration adds the ranges of its own fields. The named choices below are written here once, for
the configurations and for the functions that take them.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union

Cache = Literal["none", "prefix", "dual"]
"""Which keys and values the sampler reuses between the passes of a block (model.window)."""
Remasking = Literal["low_confidence", "random"]
"""By what a denoising pass ranks the masked positions (model.remasking)."""
MarginLoss = Literal["sigmoid", "ipo"]
"""The loss of a preference margin (model.preference)."""
Estimator = Literal["one_pass", "complementary", "elbo", "trajectory"]
"""How GRPO estimates log-probabilities (model.estimators)."""
RatioLevel = Literal["token", "sequence"]
"""Whether GRPO's probability ratio belongs to a token or to a whole answer (model.preference)."""
LAYERS = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
"""The linear layers of a block (model.llada), all of which an adapter may update."""

LARGEST = 10**9
"""Largest absolute value of a number: no quantity of a run comes near it, and 1e300 is a typo."""
WIDER = {"seed": 2**63 - 1}
"""Larger bounds, for fields whose numbers identify something and measure nothing."""
LONGEST_TEXT, LONGEST_LIST = 100_000, 1_000
SHOWN = 200  # most characters of a refused value that a message repeats


def check(name: str, value: object, good: bool, allowed: str) -> None:
    """Raises ValueError naming the field, its value and what is allowed, unless it is good."""
    if not good:
        shown = repr(value)
        shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
        raise ValueError(f"{name}={shown}, allowed: {allowed}")


def check_text(name: str, value: str | None, allowed: str = "a text") -> None:
    """Raises ValueError for a text that is empty or all white space; None passes."""
    check(name, value, value is None or bool(value.strip()), allowed)


class Checked:
    """The base of every configuration: an instance holds values of the annotated types alone.

    A subclass with checks of its own calls `super().__post_init__()` before them.
    """

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields to build an instance of, where some of `values` stand for further ones."""
        return values

    def __post_init__(self) -> None:
        kind: type = type(self)
        for name, hint in _hints(kind).items():
            check_type(name, hint, getattr(self, name))


def check_type(name: str, hint: Any, value: object) -> None:
    """Raises ValueError unless `value` is of the annotated type, finite and bounded.

    Supports int, float, bool, str, dict, Literal, dataclasses, tuples of these, and `| None`.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        if value is not None:
            check_type(name, inner, value)
    elif origin is Literal:
        check(name, value, value in arguments, ", ".join(map(str, arguments)))
    elif origin is tuple:
        _check_items(name, arguments, value)
    elif hint in (int, float):
        _check_number(name, hint, value)
    elif hint is str:
        _check_characters(name, value)
    else:
        allowed = {bool: "true or false", dict: "a JSON object"}.get(hint, hint.__name__)
        check(name, value, isinstance(value, hint), allowed)


def _check_items(name: str, hints: tuple, value: Any) -> None:
    is_list = isinstance(value, tuple | list)
    if hints[-1] is Ellipsis:
        allowed = f"a list of at most {LONGEST_LIST}"
        check(name, value, is_list and len(value) <= LONGEST_LIST, allowed)
        hints = (hints[0],) * len(value)
    check(name, value, is_list and len(value) == len(hints), f"a list of {len(hints)}")
    for number, (hint, item) in enumerate(zip(hints, value, strict=True)):
        check_type(f"{name}[{number}]", hint, item)


def _check_number(name: str, hint: type, value: Any) -> None:
    """NaN and the infinities need no check of their own: they fail the comparison."""
    largest = WIDER.get(name, LARGEST)
    kinds, called = (int, "whole") if hint is int else (int | float, "finite")
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    allowed = f"a {called} number, in size up to {largest}"
    check(name, value, is_number and abs(value) <= largest, allowed)


def _check_characters(name: str, value: Any) -> None:
    """A NUL cannot stand in a path, nor half of a surrogate pair in a JSON file."""
    good = isinstance(value, str) and len(value) <= LONGEST_TEXT and "\0" not in value
    good = good and value.encode(errors="ignore").decode() == value
    check(name, value, good, f"a text of up to {LONGEST_TEXT} characters, each one of Unicode's")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Lora(Checked):
    """A low-rank adapter (arXiv:2106.09685): W + (alpha / rank) B A."""

    rank: int = 128
    """Rank of the update."""
    alpha: float = 256.0
    """Scale of the update, divided by the rank."""
    dropout: float = 0.05
    """Probability of dropping an input of the adapter in training."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "attn_out")
    """Names of the adapted linear layers within a block."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) (rsLoRA, arXiv:2312.03732)."""
    dora: bool = False
    """Train the columns' magnitudes apart from their directions (DoRA, arXiv:2402.09353)."""
    new_tokens: bool = True
    """Train the embedding and head rows of special tokens that the base's tokenizer lacked; never
    in pretraining, whose plain text does not hold them."""
    quantized: bool = False
    """Keep the frozen base in 4 bits (QLoRA, arXiv:2305.14314), where bitsandbytes works."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("lora.rank", self.rank, self.rank >= 1, "1 or more")
        check("lora.alpha", self.alpha, self.alpha > 0, "above 0")
        check("lora.dropout", self.dropout, 0 <= self.dropout < 1, "0 to below 1")
        known = bool(self.targets) and set(self.targets) <= set(LAYERS)
        check("lora.targets", self.targets, known, f"some of {', '.join(LAYERS)}")


@dataclass(frozen=True, kw_only=True)
class Curriculum(Checked):
    """Masks positions beyond the original context more often, early in training.

    Inside the original context a token is masked with p, beyond it with q = 1 - (1 - p)^(1 + s). s
    falls linearly from `strength` to 0; from `until` on the loss is the plain one.
    `model.noising.apply_curriculum` shows why the loss bounds the likelihood for every s.
    """

    original_context: int
    """Positions of the original context; later ones are masked more often."""
    strength: float = 2.0
    """s at the start: q = 1 - (1 - p)^3 at 2, which is 0.875 at p = 0.5."""
    until: float = 0.5
    """Fraction of training from which the objective is uniform."""

    def __post_init__(self) -> None:
        super().__post_init__()
        original = self.original_context
        check("curriculum.original_context", original, original >= 1, "1 or more")
        check(
            "curriculum.strength", self.strength, 0 <= self.strength <= 100, "0 or more, up to 100"
        )
        check("curriculum.until", self.until, 0 < self.until < 1, "above 0, below 1")

    def strength_at(self, progress: float) -> float:
        """s after the fraction `progress` of training."""
        check("progress", progress, 0 <= progress <= 1, "0 to 1")
        return self.strength * max(1 - progress / self.until, 0.0)


@dataclass(frozen=True, kw_only=True)
class LossOptions(Checked):
    """Variations of the training loss; the defaults give the plain loss, bit for bit."""

    band: tuple[float, float] = (0.0, 1.0)
    """t is clipped into this range (LLaDA2.0, arXiv:2512.15745). What is optimized is then no bound
    of the likelihood: the ratios beyond the band are replaced by its ends."""
    complementary: bool = False
    """Each sequence comes twice, with a mask and with its inverse, so that every token is predicted
    once (LLaDA2.0). The inverse has the ratio 1 - p: use a band that is symmetric about 0.5."""
    curriculum: Curriculum | None = None
    """Masks the positions of an extended context more often, early on."""
    z_loss: float = 0.0
    """Weight of log(sum exp(logits))^2 of each masked token (PaLM, arXiv:2204.02311)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.band
        check("band", self.band, 0 <= low < high <= 1, "0 <= low < high <= 1")
        check("z_loss", self.z_loss, 0 <= self.z_loss <= 1, "0 or more, up to 1")
        both = self.complementary and self.curriculum is not None
        check("complementary", self.complementary, not both, "false beside a curriculum")
