"""The names of verifiers and rewards, and the judge's settings."""

import ipaddress
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
    r"(?P<scheme>https?)://(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\])(:(?P<port>\d{1,5}))?(/[!\"$->@-~]*)?",
    re.ASCII,
)
PRIVATE = re.compile(
    r"[a-z][a-z0-9_-]*|([a-z0-9_-]+\.)+(svc|localhost|local|internal|lan|home\.arpa)"
    r"|([a-z0-9_-]+\.)+svc\.([a-z0-9_-]+\.)*local"
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


def check_url(name: str, url: str, *, allow_http: bool) -> None:
    """Raises ValueError unless `url` is the base of an HTTP API, to which a key may be sent.

    A key that somebody put into the URL is not shown.
    """
    allowed = "a URL starting with http:// or https://, then a host, and perhaps port and path"
    check(name, url, url.startswith(("http://", "https://")), allowed)
    check(name, "...", "@" not in url.split("/")[2], "a URL without user or password")
    shown = re.sub(r"[?#].*", "...", url, flags=re.DOTALL)
    parts = URL.fullmatch(url)
    if parts is None or not 1 <= int(parts["port"] or 1) <= 65535:
        check(name, shown, False, allowed)
        return
    good = parts["scheme"] == "https" or allow_http or is_private(parts["host"])
    allowed = (
        "https://, or http:// for a loopback or private host (in a cluster NAME.NAMESPACE.svc)"
    )
    allowed += ", or judge.allow_http"
    check(name, shown, good, allowed)


def is_private(host: str) -> bool:
    """Whether only this machine or network answers by that name: loopback, private, in a cluster.

    A name of one part is looked up in the cluster's or network's own domain. An address spelled as
    one number is none, nor is a link-local address, where clouds keep credentials.
    """
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return PRIVATE.fullmatch(host.lower().removesuffix(".")) is not None
    return (address.is_private or address.is_loopback) and not address.is_link_local


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(Checked):
    """A language model behind an OpenAI-compatible endpoint that scores the answers of a group."""

    url: str
    """Base URL of the endpoint, as in http://localhost:11434/v1; its key is JUDGE_API_KEY in the
    environment and nowhere else. It is sent by http:// only to loopback and private addresses, and
    to names of this machine, network or cluster: localhost, judge, judge.NAMESPACE.svc."""
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
    allow_http: bool = False
    """Send key and answers over http:// to any host, where everybody between can read them."""
    max_failed_share: float = 0.1
    """Share of failed calls, of all calls so far or of 20 if they are fewer, that ends the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_url("judge.url", self.url, allow_http=self.allow_http)
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
