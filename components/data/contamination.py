"""What of a test set also stands in training data: found, named in the report, and left out.

The rule is that of GPT-3 (arXiv:2005.14165, appendix C), on prompts: a run of N words (8 to 13, the
5th percentile of the prompts' lengths) in lower case without punctuation, unless more than ten
different training texts or test prompts hold it. Conversations, pairs and problems that hold a run
are dropped. Out of a document the run is cut with 200 characters on either side; the rest of it
stays, however many pieces it is in. A whole test prompt is dropped whatever its length, also where
an instruction and a blank line come before it.
Countdown and Sudoku have few words: they are compared as puzzles (`puzzles.identity`).

It is one pass, so that the first ten texts with a run that turns out to be common lose it too.
Memory grows with the test set alone, up to GRAMS runs.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from components.data import puzzles
from components.data.datacard import Card, Match
from components.data.jsonlines import Row

WORD = re.compile(r"[^\W_]+")
SHORTEST, LONGEST = 8, 13  # words of a run
COMMON = 10  # a run in more training texts than these is common, and says nothing
AROUND = 200  # characters cut on either side of a run; a piece that is shorter goes too
GRAMS = 500_000  # runs that are remembered; of a larger test set every second, third, ... of them
PUZZLES = ("countdown", "sudoku")


class TestSet:
    """The prompts of the test part, and of further tests that are held out."""

    __test__ = False  # pytest takes classes of this name for tests

    def __init__(
        self, rows: Callable[[], Iterator[Row]], sources: Sequence[str], own: int | None = None
    ) -> None:
        """`rows` starts the rows of the tests anew, `sources` name the data set of each.

        The first `own` are those of test.jsonl; null says all.
        """
        self.sources, self.own = sources, own
        lengths = Counter(len(_words(row["prompt"])) for row in rows())
        self.length = _run_length(lengths)
        self.longest = 0  # characters of a prompt
        total = sum(max(words - self.length + 1, 0) * count for words, count in lengths.items())
        self.step = max(-(-total // GRAMS), 1)
        self.runs: dict[str, int] = {}
        self.prompts: dict[str, int] = {}
        self.puzzles: dict[str, int] = {}
        self.holders: dict[str, set[int]] = {}
        prompts: Counter[str] = Counter()
        for number, row in enumerate(rows()):
            # Two tests may hold the same problem (MATH has those of MATH-500): it counts once.
            is_new = _plain(row["prompt"]) not in self.prompts
            runs = self._add(number, row)
            prompts.update(runs if is_new else ())
        # An instruction that many prompts share is no part of a question.
        self.runs = {run: row for run, row in self.runs.items() if prompts[run] <= COMMON}

    def _add(self, number: int, row: Row) -> set[str]:
        """Remembers a prompt and its puzzle; returns its runs."""
        self.longest = max(self.longest, len(row["prompt"]))
        self.prompts.setdefault(_plain(row["prompt"]), number)
        runs = list(_runs(_words(row["prompt"]), self.length))[:: self.step]
        for run in runs:
            self.runs.setdefault(run, number)
        for key in _identity(row):
            self.puzzles.setdefault(key, number)
        return set(runs)

    def without(self, part: str, rows: Iterator[Row], card: Card) -> Iterator[Row]:
        """The rows of a part that hold no test problem; the rest is counted on the card."""
        for row in rows:
            match = self.match(part, row)
            if match is None:
                yield row
            else:
                card.match(match)
                card.drop(f"in_test:{match.source}")

    def clean(self, text: str, card: Card) -> list[str]:
        """The pieces of a document without test problems, which are noted on the card."""
        pieces, matches = self.cut(text)
        for match in matches:
            card.match(match)
        if not pieces:
            card.drop(f"in_test:{matches[0].source}")
        return pieces

    def match(self, part: str, row: Row) -> Match | None:
        """The test problem that a row of sft, preferences or problems holds, or None."""
        texts = [*_questions(row), *([row["prompt"]] if "prompt" in row else [])]
        for text in texts:
            for whole in map(_plain, (text, *self._tails(text))):
                if (number := self.prompts.get(whole)) is not None:
                    return self._match(number, whole)
            for run in self._shared(text):
                return self._match(self.runs[run], run)
        for key in _identity(row) if part == "problems" else ():
            if key in self.puzzles:
                return self._match(self.puzzles[key], key)
        return None

    def _tails(self, text: str) -> Iterator[str]:
        """What follows a blank line, as far as a test prompt is long: instructions come first."""
        start = text.rfind("\n\n")
        while start >= 0 and len(text) - start <= self.longest + 2:
            yield text[start:]
            start = text.rfind("\n\n", 0, start)

    def cut(self, text: str) -> tuple[list[str], list[Match]]:
        """The pieces of a document without the test problems that stand in it, and these."""
        shared = self._shared(text)
        if not shared:
            return [text], []
        places = list(WORD.finditer(_lower(text)))
        runs = _runs([place[0] for place in places], self.length)
        last = self.length - 1
        spans = [
            (places[number].start() - AROUND, places[number + last].end() + AROUND)
            for number, run in enumerate(runs)
            if run in shared
        ]
        first = {self.runs[run]: run for run in reversed(shared)}
        return list(_outside(text, spans)), [self._match(*pair) for pair in sorted(first.items())]

    def _shared(self, text: str) -> list[str]:
        """The runs of a text that the test set has too, without common ones."""
        if not self.runs:
            return []
        words = _words(text)
        if self.runs.keys().isdisjoint(_runs(words, self.length)):
            return []
        shared = dict.fromkeys(run for run in _runs(words, self.length) if run in self.runs)
        return [run for run in shared if not self._is_common(run, hash(_plain(text)))]

    def _is_common(self, run: str, text: int) -> bool:
        """Whether more than COMMON different texts hold a run, this one included.

        Copies of a text count once: a question that comes with sixteen answers is not common.
        """
        holders = self.holders.setdefault(run, set())
        if len(holders) <= COMMON:
            holders.add(text)
        return len(holders) > COMMON

    def _match(self, number: int, words: str) -> Match:
        is_own = self.own is None or number < self.own
        return Match(self.sources[number], number + 1, words, is_own)


def _run_length(lengths: Counter[int]) -> int:
    """The 5th percentile of the lengths, from SHORTEST to LONGEST."""
    rest = lengths.total() // 20
    for words in sorted(lengths):
        rest -= lengths[words]
        if rest < 0:
            return min(max(words, SHORTEST), LONGEST)
    return LONGEST


def _runs(words: Sequence[str], length: int) -> Iterator[str]:
    return map(" ".join, zip(*(words[start:] for start in range(length)), strict=False))


def _words(text: str) -> list[str]:
    return WORD.findall(_lower(text))


def _lower(text: str) -> str:
    """In lower case, of the same length, so that places in it are places in the text."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(small if len(small := sign.lower()) == 1 else sign for sign in text)


def _plain(text: str) -> str:
    """A whole prompt, for which signs count: 2 + 5 is not 2 - 5."""
    return " ".join(text.lower().split())


def _questions(row: Row) -> list[str]:
    turns = row.get("messages") or row.get("turns") or ()
    return [turn["content"] for turn in turns if turn["role"] == "user"]


def _identity(row: Row) -> frozenset[str]:
    """What makes a puzzle the same as another one; nothing for other problems."""
    if row.get("verifier") not in PUZZLES:
        return frozenset()
    try:
        return puzzles.identity(row["verifier"], row["answer"])
    except ValueError:  # no puzzle: whoever asks it refuses it
        return frozenset()


def _outside(text: str, spans: Iterable[tuple[int, int]]) -> Iterator[str]:
    """The pieces of a text between ascending spans, from word to word."""
    start = 0
    for begin, end in (*spans, (len(text), len(text))):
        piece = text[start : max(begin, start)]
        if begin < len(text) and piece and not text[begin].isspace():
            piece = piece[: max(piece.rfind(" "), piece.rfind("\n")) + 1]
        if start and piece and not text[start - 1].isspace():
            piece = re.sub(r"^\S+", "", piece)
        if len(piece.strip()) >= AROUND:
            yield piece
        start = max(start, min(end, len(text)))
