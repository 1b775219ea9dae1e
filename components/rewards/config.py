"""The names of verifiers and rewards, and the judge's settings."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from model.options import Checked, check, check_text

Verifier = Literal["exact", "math", "code", "countdown", "sudoku"]
"""How an answer is judged: compared with the dataset's to the letter or by value, by running tests,
or by checking that it solves a puzzle (`components.rewards.planning`)."""
VERIFIERS: tuple[Verifier, ...] = get_args(Verifier)
REWARDS = ("verified", *VERIFIERS, "format", "equations", "overlong")
"""`verified` is the verdict of each problem's own verifier (`components.rewards.named`)."""
URL = re.compile(
    r"https?://([\w.-]+|\[[0-9a-fA-F:.]+\])(:(?P<port>\d{1,5}))?(/[!\"$->@-~]*)?", re.ASCII
)


def check_rewards(name: str, weights: Sequence[tuple[str, float]]) -> None:
    """Raises ValueError unless `weights` are (reward, weight) pairs: known, each once, finite."""
    names = [reward for reward, _ in weights]
    check(name, weights, bool(names), f"weights of some of {', '.join(REWARDS)}")
    for number, reward in enumerate(names):
        check(f"{name}[{number}][0]", reward, reward in REWARDS, ", ".join(REWARDS))
        check(f"{name}[{number}][0]", reward, names.count(reward) == 1, "each reward once")
        weight = weights[number][1]
        check(f"{name}[{number}][1]", weight, math.isfinite(weight), "a finite number")


def check_url(name: str, url: str) -> None:
    """Raises ValueError unless `url` is the base of an HTTP API; a password in it is not shown."""
    allowed = "a URL starting with http:// or https://, then a host, and perhaps port and path"
    check(name, url, url.startswith(("http://", "https://")), allowed)
    check(name, "...", "@" not in url.split("/")[2], "a URL without user or password")
    parts = URL.fullmatch(url)
    good = parts is not None and 1 <= int(parts["port"] or 1) <= 65535
    check(name, url, good, allowed)


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(Checked):
    """A language model behind an OpenAI-compatible endpoint that scores the answers of a group."""

    url: str
    """Base URL of the endpoint, as in http://localhost:11434/v1; its key is JUDGE_API_KEY in the
    environment and nowhere else."""
    model: str
    """Name of the model at the endpoint."""
    rubric: str = "A better answer reaches a correct result by true and needed steps."
    """What makes an answer better than another, for the judge to go by."""
    weight: float = 1.0
    """Weight of the judge's score, 0 to 1, beside the other rewards."""
    timeout: float = 60.0
    """Seconds that one attempt may take."""
    retries: int = 3
    """Further attempts when the endpoint is down, busy or failing, at growing intervals."""
    concurrency: int = 8
    """Groups that are judged at the same time."""
    max_failed_share: float = 0.1
    """Share of failed calls, of all calls so far or of 20 if they are fewer, that ends the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_url("judge.url", self.url)
        check_text("judge.model", self.model, "a name")
        check_text("judge.rubric", self.rubric)
        check("judge.weight", self.weight, self.weight >= 0, "0 or more")
        check("judge.timeout", self.timeout, self.timeout > 0, "above 0")
        check("judge.retries", self.retries, 0 <= self.retries <= 20, "0 to 20")
        check(
            "judge.concurrency",
            self.concurrency,
            1 <= self.concurrency <= 1000,
            "1 or more, up to 1000",
        )
        share = self.max_failed_share
        check("judge.max_failed_share", share, 0 <= share <= 1, "0 to 1")
