"""One flipped bit in any file of an input, its record included: refused by name before any work."""

import random
import shutil

import pytest

from components.artifact import RECORD
from components.records import parse
from tests.conftest import stage


def flip(file, place, bit):
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


@pytest.fixture
def inputs(downloaded, adapted, tmp_path):
    """Copies of the inputs of a merge and of an evaluation."""
    sources = {"base": downloaded / "model", "dataset": downloaded / "dataset"}
    sources["trained"] = adapted / "trained"
    for name, source in sources.items():
        shutil.copytree(source, tmp_path / name)
    return {name: tmp_path / name for name in sources}


def names(root):
    return sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())


@pytest.mark.parametrize("damaged", ["base", "trained", "dataset"])
def test_a_flipped_bit_of_any_file(inputs, tmp_path, damaged):
    rng, root = random.Random(damaged), inputs[damaged]
    for name in names(root):
        file = root / name
        if not (whole := file.read_bytes()):
            continue
        flip(file, rng.randrange(len(whole)), rng.randrange(8))
        if damaged == "dataset":
            given = {"model": inputs["base"], "dataset": root, "evaluation": tmp_path / "out"}
            done = stage("evaluate", check=False, metrics=tmp_path / "metrics", **given)
        else:
            given = {"base": inputs["base"], "trained": inputs["trained"]}
            given |= {"model": tmp_path / "out", "metrics": tmp_path / "metrics"}
            done = stage("merge", check=False, **given)
        file.write_bytes(whole)
        assert done.returncode == 2 and "Traceback" not in done.stderr, (name, done.stderr)
        (line,) = done.stderr.splitlines()
        assert str(root if name == RECORD else file) in line, line
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_every_bit_of_the_record(downloaded):
    """By the function that reads every record; the test above goes through the command line."""
    raw = (downloaded / "model" / RECORD).read_bytes()
    assert parse(raw)["output"] == "model"
    accepted = []
    for place in range(len(raw)):
        for bit in range(8):
            try:
                parse(raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :])
            except ValueError:
                continue
            accepted.append((place, bit))
    assert accepted == []
