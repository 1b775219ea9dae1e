"""Every data set of the catalogue in its published schema, through the download stage."""

import json
import time
from collections import Counter

import pytest

from components import coerce
from components.data import catalogue, puzzles, roles
from components.data import dataset as data
from components.data.config import Source
from components.data.wording import Unfit
from components.download.config import DownloadConfig
from pipelines import form, overrides
from tests.components.corpora import download, write_jsonl
from tests.components.data.published import BOOK, PUBLISHED, content, repositories
from tests.components.storage import test_hub
from tests.components.storage.hub_server import COMMIT, Hub
from tests.conftest import ROOT

PARTS = {kind: part for part, kind in catalogue.KINDS.items() if part != "test"}
ALL = {"min_tokens": 1, "long_share": 0, "quality": False}
GSM8K = {"name": "gsm8k", "revision": COMMIT}
HELD_OUT = ("math-500", "humaneval")


def entries(part):
    """The entries with a fixture that a part takes."""
    named = [name for name in PUBLISHED if (name in HELD_OUT) == (part == "test")]
    return [name for name in named if catalogue.KINDS[part] == catalogue.find(name).kind]


def fetch(root, base, hub, **config):
    """The stage in a process of its own, since the Hub's client reads its settings once."""
    return test_hub.run(hub, root, {"model": str(base), **config})


@pytest.fixture(scope="module")
def fetched(tmp_path_factory, base):
    """Every part from all data sets that it may be made of, and the report."""
    root = tmp_path_factory.mktemp("catalogue")
    shards = write_jsonl(root / "dolma" / "a.jsonl", [{"text": "def f():\n    pass", "id": "1"}])
    config = {part: [{"name": name} for name in entries(part)] for part in catalogue.KINDS}
    config["pretrain"].append({"name": "dolma", "location": shards})
    with Hub(**repositories()) as hub:
        hub.revisions |= {entry.commit for entry in catalogue.ENTRIES}
        done = fetch(root, base, hub, sample=ALL, **config)
    assert done.returncode == 0, done.stderr
    return root / "dataset", json.loads((root / "dataset" / "report.json").read_text())


def test_every_entry_has_a_fixture():
    without = {entry.name for entry in catalogue.ENTRIES} - set(PUBLISHED)
    assert without == {"dolma", "countdown", "sudoku-4x4"}


def in_order(rows):
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


@pytest.mark.parametrize("part", ["sft", "preferences", "problems", "test"])
def test_rows_by_role(fetched, part):
    dataset, report = fetched
    cases = [case for name in entries(part) for case in PUBLISHED[name][2]]
    wanted = [case for case in cases if not isinstance(case, str)]
    assert in_order(data.read(dataset, part)) == in_order(wanted)
    assert report[part]["dropped"] == Counter(case for case in cases if isinstance(case, str))
    split = {name: "train" for name in PUBLISHED} | dict.fromkeys(HELD_OUT, "test")
    split |= {"nemotron-sft": "math", "hh-rlhf": "helpful-base"}
    labels = {f"{name}:{split[name]}": len(PUBLISHED[name][1]) for name in entries(part)}
    assert report[part]["sources"] == labels


def test_documents_keep_their_lines_and_books_come_in_pieces(fetched):
    _, report = fetched
    samples = report["pretrain"]["samples"]
    assert "Tides rise\n  twice a day\tbecause…" in samples
    assert "def f():\n    pass" in samples
    assert len(BOOK) > 1 << 20 and report["pretrain"]["documents"] == 4
    assert report["pretrain"]["dropped"] == {}


def test_report_names_licences(fetched):
    _, report = fetched
    page = "licence MIT, https://huggingface.co/datasets/openai/gsm8k"
    assert f"gsm8k:train: {page}" in report["problems"]["notes"]


def test_column_that_the_schema_no_longer_has(base, tmp_path):
    """Before the base model is fetched."""
    rows = [{"question": "How many?", "solution": "#### 7"}]
    file = "main/train-00000-of-00001.parquet"
    with Hub(**{"openai/gsm8k": {file: content(file, rows)}}) as hub:
        done = fetch(tmp_path, base, hub, model="owner/none", problems=[GSM8K])
        words = [f"gsm8k@{COMMIT}/{file}: has no column answer, which the catalogue's gsm8k reads"]
        test_hub.refused(done, tmp_path, words)


@pytest.mark.parametrize(
    ("part", "source", "words"),
    [
        ("problems", {"name": "gsm8"}, "problems[0].name='gsm8', allowed: a data set of"),
        ("problems", {"name": "gsm8"}, "the nearest are gsm8k, "),
        ("preferences", {"name": "Anthropic/HH-RLHF"}, "the nearest are hh-rlhf, hh-golden, "),
        ("sft", {"name": "gsm8k"}, "sft[0].name='gsm8k', allowed: in problems or test, not in sft"),
        ("problems", {"name": "math-500"}, "allowed: none, math-500 has no split for training"),
        ("problems", {"name": "gsm8k", "split": "test"}, "split='test', allowed: train"),
        ("problems", {**GSM8K, "location": "x"}, f"revision='{COMMIT}', allowed: null beside a"),
        ("problems", {"name": "gsm8k", "split": "test", "location": "x"}, "split='test', allowed"),
        ("pretrain", {"name": "dolma"}, "location=None, allowed: a path or an address; dolma is"),
        (
            "problems",
            {"name": "countdown", "location": "x"},
            "location='x', allowed: null: countdown",
        ),
        ("pretrain", {"name": "dolma"}, "fetch shards whose addresses stand in urls/v1_7.txt of"),
        ("problems", {}, "location is missing, and so is the name of a data set"),
        ("problems", {"location": "x", "split": "a"}, "split='a', allowed: null without a name"),
        ("problems", {"name": "math", "keep": [["level", "("]]}, "a regular expression: "),
    ],
)
def test_refused(tmp_path, base, capsys, part, source, words):
    with pytest.raises(SystemExit) as ended:
        download(tmp_path, base, **{part: [source]})
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line, line


MINE = {
    **{"kind": "problems", "prompt": "Solve: {task.text}", "answer": "task.gold"},
    **{"keep": {"level": "[12]"}, "verifier": "math"},
}


@pytest.mark.parametrize("text", ["\n" * 400_000, " \n" * 400_000])
def test_a_transcript_of_blank_lines_takes_no_time(text):
    """A row comes from a stranger; this one took twenty minutes."""
    row = {"chosen": text, "rejected": text}
    began = time.monotonic()
    with pytest.raises(Unfit, match="transcript"):
        roles.usual(catalogue.find("hh-rlhf"), (), row)
    assert time.monotonic() - began < 10


def test_a_row_without_a_column_is_counted(tmp_path, base):
    """A JSON line may lack what the first one has; the question alone would be another."""
    first, second = map(dict, PUBLISHED["dolly-15k"][1])
    location = write_jsonl(tmp_path / "rows.jsonl", [second, {**first, "context": None}])
    _, report = download(tmp_path, base, sft=[{"name": "dolly-15k", "location": location}])
    assert report["sft"]["documents"] == 2
    del first["context"]
    write_jsonl(tmp_path / "rows.jsonl", [second, first])
    _, report = download(tmp_path / "b", base, sft=[{"name": "dolly-15k", "location": location}])
    assert report["sft"]["dropped"] == {"no_column_context": 1}


def test_a_copy_of_a_whole_repository(tmp_path, base):
    """The split alone is read; a copy in folders of its own is read as it is."""
    rows = dict(zip(("train", "test"), PUBLISHED["gsm8k"][1], strict=False))
    for split, row in rows.items():
        file = tmp_path / "gsm8k" / "main" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content(file.name, [row]))
    home = {"name": "gsm8k", "location": str(tmp_path / "gsm8k")}
    dataset, _ = download(tmp_path / "a", base, problems=[home], test=[home])
    for part, split in (("problems", "train"), ("test", "test")):
        (row,) = data.read(dataset, part)
        assert row["prompt"] == rows[split]["question"]
    flat = {"name": "gsm8k", "location": str(file.parent / "train-*.parquet")}
    dataset, _ = download(tmp_path / "b", base, problems=[flat])
    assert len(data.read(dataset, "problems")) == 1


@pytest.mark.parametrize("form", ["object", "json", "python"])
def test_entries_of_your_own(tmp_path, base, form):
    """Nothing of the Python file is run."""
    rows = [{"task": {"text": f"{n} + 1", "gold": n + 1}, "level": n} for n in range(4)]
    location = write_jsonl(tmp_path / "rows.jsonl", rows)
    own = {"object": {"mine": MINE}, "json": "my.json", "python": "my_data.py"}[form]
    if form != "object":
        own = str(tmp_path / own)
        text = json.dumps({"mine": MINE})
        assignment = f"raise SystemExit(9)\nCATALOGUE: dict[str, object] = {text}\n"
        (tmp_path / "my.json").write_text(text)
        (tmp_path / "my_data.py").write_text(assignment)
    sources = [{"name": "mine", "location": location, "keep": [["task.gold", "[^3]"]]}]
    dataset, report = download(tmp_path, base, problems=sources, catalogue=own)
    (row,) = data.read(dataset, "problems")
    assert row == {"prompt": "Solve: 1 + 1", "answer": "2", "verifier": "math"}
    assert report["problems"]["dropped"] == {"other_level": 2, "other_task.gold": 1}


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (
            "absent.py",
            "catalogue='absent.py', allowed: a JSON file of entries by name, or a Python",
        ),
        ({"a": {"kind": "text"}}, "catalogue[0].text=None, allowed: a column, for text"),
        ({"a": {"kind": "songs"}}, "catalogue[0].kind='songs', allowed: text, conversations"),
        ([{"kind": "text"}], "catalogue[0].name is missing"),
    ],
)
def test_bad_entries(tmp_path, base, capsys, own, words):
    with pytest.raises(SystemExit) as ended:
        download(tmp_path, base, catalogue=own)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_puzzles_by_name(tmp_path, base):
    """Both splits from one seed, without a network; what is trained on is never asked."""
    names = [{"name": name} for name in ("countdown", "sudoku-4x4")]
    dataset, report = download(tmp_path, base, problems=names, test=names, examples=60)
    asked, tested = (data.read(dataset, part) for part in ("problems", "test"))
    assert len(asked) == len(tested) == 60 and report["test"]["dropped"] == {}
    assert {row["verifier"] for row in asked} == {"countdown", "sudoku"}
    identities = [
        {key for row in rows for key in puzzles.identity(row["verifier"], row["answer"])}
        for rows in (asked, tested)
    ]
    assert not identities[0] & identities[1]


@pytest.mark.parametrize("kind", puzzles.MADE)
def test_splits_of_puzzles(kind):
    """The test is the one that evaluation makes from the seed."""
    test = list(puzzles.split(kind, "test", 3))
    make, _ = puzzles.MADE[kind]
    assert test == make(256, 3)
    stream = puzzles.split(kind, "train", 3)
    train = [next(stream) for _ in range(100)]
    again = puzzles.split(kind, "train", 3)
    assert train == [next(again) for _ in range(100)]
    taken = {key for row in test for key in puzzles.identity(kind, row["answer"])}
    assert not any(puzzles.identity(kind, row["answer"]) & taken for row in train)
    assert len({row["answer"] for row in train}) == 100


def test_a_name_is_resolved_to_a_commit():
    source = Source(name="gsm8k", revision=COMMIT)
    location = f"hf://datasets/openai/gsm8k@{COMMIT}/main/train-*.parquet"
    assert catalogue.resolve(source, "problems").location == location
    assert catalogue.resolve(source, "test").split == "test"


def test_a_commit_is_the_entry_s_own_unless_the_source_has_one():
    """The page names those for which nobody publishes a commit: the Hub is asked then."""
    own = catalogue.find("gsm8k").commit
    assert own and catalogue.resolve(Source(name="gsm8k"), "problems").location == (
        f"hf://datasets/openai/gsm8k@{own}/main/train-*.parquet"
    )
    without = {entry.name for entry in catalogue.ENTRIES if entry.repository and not entry.commit}
    page = (ROOT / "components" / "download" / "README.md").read_text()
    line = next(line for line in page.splitlines() if "have no commit" in line)
    assert {name for name in without if f"`{name}`" in line} == without
    assert line.partition(": ")[0].count("`") == 2 * len(without)


def test_page_names_every_entry_by_its_parts():
    page = (ROOT / "components" / "download" / "README.md").read_text()
    table = page.partition("| for | data sets |\n")[2].partition("\n\n")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines()]
    for entry in catalogue.ENTRIES:
        parts = {part for part in catalogue.KINDS if fits(entry, part)}
        heads = {
            word for head, names in rows if f"`{entry.name}`" in names for word in head.split()
        }
        assert {part for part in catalogue.KINDS if part in heads} == parts, entry.name


def fits(entry, part):
    """Whether a part takes the entry without a split or a location."""
    place = None if entry.repository or entry.made else "shards"
    try:
        return bool(catalogue.resolve(Source(name=entry.name, location=place), part))
    except ValueError:
        return False


def test_entries_of_your_own_reach_the_cluster(tmp_path):
    """The file is read where the run is submitted; the run form holds its entries."""
    path = tmp_path / "my_data.py"
    path.write_text(f"CATALOGUE = {json.dumps({'mine': MINE})}\n")
    recipe = overrides.choose("tiny", settings=[f"download.catalogue={path}"])
    path.unlink()
    sent = json.loads(json.dumps(form.arguments(recipe)["download"]))
    (entry,) = coerce.build(DownloadConfig, sent, "download").catalogue
    assert (entry.name, entry.prompt) == ("mine", MINE["prompt"])
    assert entry.keep == (("level", "[12]"),)
