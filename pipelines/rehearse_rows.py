"""Made-up rows in the shapes of the published data sets, as the download stage reads them.

Their words mean nothing: a rehearsal measures time and memory, and learns nothing.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.preflight.config import Recipe

Row = dict[str, Any]
SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "wo")
WORDS = 180  # words that a tokenizer learns as one token each
ROWS = 24  # of each part but the texts
TEXTS = 8


def write(folder: Path, recipe: Recipe, seed: int = 0) -> None:
    """Writes a file for each part of the dataset, as long as the recipe's sequences may be."""
    rng = random.Random(seed)
    words = [a + b for a in SYLLABLES for b in SYLLABLES][:WORDS]
    window = recipe.pretrain.window if recipe.pretrain else 64
    length = recipe.sft.max_length if recipe.sft else 64
    pair = recipe.dpo.max_length if recipe.dpo else 64
    parts = {
        "pretrain": _texts(rng, words, window),
        "sft": _conversations(rng, words, length // 3),
        "preferences": _preferences(rng, words, pair // 3),
        "problems": _problems(rng, words),
        "test": _problems(rng, words),
    }
    for part, rows in parts.items():
        lines = (json.dumps(row) + "\n" for row in rows)
        (folder / f"{part}.jsonl").write_text("".join(lines))


def _say(rng: random.Random, words: list[str], count: int) -> str:
    return " ".join(rng.choices(words, k=max(count, 4)))


def _texts(rng: random.Random, words: list[str], count: int) -> Iterator[Row]:
    """FineWeb-Edu's column, with the lines of a page."""
    for _ in range(TEXTS):
        lines = [_say(rng, words, 12) for _ in range(max(count // 12, 2))]
        yield {"text": "\n".join(lines)}


def _conversations(rng: random.Random, words: list[str], count: int) -> Iterator[Row]:
    """OpenThoughts' columns: a system message, and a thought before the solution."""
    for _ in range(ROWS):
        thought, solution = _say(rng, words, count), _say(rng, words, 8)
        answer = (
            f"<|begin_of_thought|>\n\n{thought}\n\n<|end_of_thought|>\n\n"
            f"<|begin_of_solution|>\n\n{solution}\n\n<|end_of_solution|>"
        )
        turns = [("user", _say(rng, words, 8)), ("assistant", answer)]
        yield {
            "system": _say(rng, words, 6),
            "conversations": [{"from": who, "value": text} for who, text in turns],
        }


def _preferences(rng: random.Random, words: list[str], count: int) -> Iterator[Row]:
    """UltraFeedback's columns: both answers with their prompt, as messages."""
    for _ in range(ROWS):
        prompt = _say(rng, words, 8)
        pair = {}
        for side in ("chosen", "rejected"):
            turns = [("user", prompt), ("assistant", _say(rng, words, count))]
            pair[side] = [{"role": who, "content": text} for who, text in turns]
        yield {"prompt": prompt, **pair}


def _problems(rng: random.Random, words: list[str]) -> Iterator[Row]:
    """GSM8K's columns: the answer is behind #### in the last line."""
    for _ in range(ROWS):
        number = rng.randrange(2, 99)
        answer = f"{_say(rng, words, 8)}\n#### {number}"
        yield {"question": _say(rng, words, 10), "answer": answer}
