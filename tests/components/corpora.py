"""Small corpora, and the download stage's command line on them, in this process."""

import json
import random
from pathlib import Path

from components import artifact
from components.cli import main
from components.download import base_model, stage

assert base_model  # imported here, it is not imported anew for every download
POOL = random.Random(7)
WORDS = [
    "".join(POOL.choices("abcdefghijklmnopqrstuvwxyz", k=POOL.randint(2, 9))) for _ in range(800)
]


def prose(words, seed):
    """Lines of drawn words, which no rule of quality objects to."""
    rng = random.Random(seed)
    lines, left = [], words
    while left > 0:
        lines.append(" ".join(rng.choices(WORDS, k=min(left, 12))))
        left -= 12
    return "\n".join(lines)


def write_jsonl(path, rows):
    """Writes the rows; returns the path as a location."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def download(root, base, **config):
    """Runs the stage's real command line; returns the dataset's directory and its report."""
    given = {"model": str(base), "made": "sums", **config}
    command = ["--config", json.dumps(given)]
    for name in ("model", "dataset", "metrics"):
        command += [f"--{name}", str(Path(root) / name)]
    main(stage.run, command)
    dataset = Path(root) / "dataset"
    artifact.verify(dataset)
    return dataset, json.loads((dataset / "report.json").read_text())
