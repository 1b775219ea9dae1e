"""Rules that tell whether a text is worth pretraining on; drops are counted by the rule's name.

After Gopher's rules (arXiv:2112.11446, appendix A.1.1). Of a long text only slices are read, so
that a rule costs the same for any length. `corpus.Quotas` judges the length in tokens.
"""

import re
import zlib
from collections.abc import Callable

SLICES, SLICE = 8, 8192  # of a long text this many slices of this many characters are read
LETTERS = re.compile(r"[^\W\d_]+")
SPACES = re.compile(r"\s+")
UNBROKEN = re.compile(r"[!-~]{1000}")


def few_letters(text: str) -> bool:
    """Fewer than half of the characters that are not white space are letters."""
    visible = _visible(text)
    return _total(LETTERS, text) < 0.5 * visible


def much_space(text: str) -> bool:
    """More than half of the characters are white space."""
    return _visible(text) < 0.5 * len(text)


def broken_encoding(text: str) -> bool:
    """More than one character in a thousand is U+FFFD or NUL."""
    return text.count("\ufffd") + text.count("\0") > len(text) / 1000


def unbroken_run(text: str) -> bool:
    """A thousand ASCII characters without white space: keys, base64 or minified code."""
    return UNBROKEN.search(text) is not None


def repeated_lines(text: str) -> bool:
    """More than 30% of the characters are in repetitions of earlier lines."""
    lines = [line for line in text.splitlines() if line.strip()]
    total = sum(map(len, lines))
    return total - sum(map(len, set(lines))) > 0.3 * total


def repetitive(text: str) -> bool:
    """zlib compresses the text to less than a tenth: it repeats the same words."""
    content = text.encode(errors="replace")
    return len(content) > 1000 and len(zlib.compress(content, 1)) < 0.1 * len(content)


RULES: dict[str, Callable[[str], bool]] = {
    rule.__name__: rule
    for rule in (
        broken_encoding,
        much_space,
        few_letters,
        unbroken_run,
        repeated_lines,
        repetitive,
    )
}


def fault(text: str) -> str | None:
    """The name of the first rule that a text breaks, or None."""
    excerpt = _slices(text)
    return next((name for name, rule in RULES.items() if rule(excerpt)), None)


def _slices(text: str) -> str:
    if len(text) <= SLICES * SLICE:
        return text
    step = (len(text) - SLICE) // (SLICES - 1)
    return "".join(text[start * step : start * step + SLICE] for start in range(SLICES))


def _visible(text: str) -> int:
    return len(text) - _total(SPACES, text)


def _total(pattern: re.Pattern[str], text: str) -> int:
    return len(text) - len(pattern.sub("", text))
