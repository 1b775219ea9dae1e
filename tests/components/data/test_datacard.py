"""The report of a dataset: counts, lengths, drops by reason and five samples."""

import json
import re

from components import artifact
from components.data.datacard import SHOWN, Card, Match, write
from components.data.token_shards import Shards
from components.drawing import escape_markdown
from tests.components.corpora import download, prose, write_jsonl


def test_report_of_a_dataset(tmp_path, base, tokenizer):
    texts = [prose(size, size) for size in (20, 30, 50, 60, 90, 130, 400)]
    pages = write_jsonl(tmp_path / "pages.jsonl", [{"text": text} for text in [*texts, "short"]])
    talks = write_jsonl(tmp_path / "talks.jsonl", [{"prompt": "a", "completion": "```\nb\n```"}])
    dataset, report = download(
        tmp_path,
        base,
        pretrain=[{"location": pages}],
        sft=[{"location": talks}],
        sample={"min_tokens": 20, "long_share": 0},
    )
    facts = report["pretrain"]
    lengths = Shards(dataset / "pretrain", tokenizer).lengths
    assert (facts["documents"], facts["tokens"]) == (7, sum(lengths))
    assert facts["dropped"] == {"too_short": 1} and facts["sources"] == {pages: 8}
    assert sum(facts["lengths"].values()) == 7
    for span, count in facts["lengths"].items():
        first, last = map(int, span.split("-"))
        assert count == ((lengths >= first) & (lengths <= last)).sum() > 0
    shown = [sample[:SHOWN] for sample in facts["samples"]]
    assert len(shown) == 5 and set(shown) < {text[:SHOWN] for text in texts}
    page = (dataset / "report.md").read_text()
    for line in ("## pretrain", f"7 of 8 kept, {sum(lengths):,} tokens.", "| too\\_short | 1 |"):
        assert line in page.splitlines()
    for line in (
        f"| {escape_markdown(pages)} | 8 |",
        "## sft",
        "Sample 5:",
        facts["samples"][0].splitlines()[0],
    ):
        assert line in page.splitlines()
    assert page.count("Sample ") == 6
    record = artifact.verify(dataset)
    assert {"report.json", "report.md"} < record["files"].keys()
    assert record["summary"]["pretrain"] == 7
    assert record["summary"]["dropped"] == {"pretrain": {"too_short": 1}}
    assert artifact.provenance(record)["tokens"] == 0, "no stage has trained on any"


def test_every_document_may_be_a_sample():
    card = Card()
    for number in range(5000):
        card.add(number, str(number))
    drawn = sorted(map(int, card.samples))
    assert len(set(drawn)) == 5 and drawn[0] < 2500 < drawn[-1]
    assert sum(card.lengths.values()) == 5000
    assert card.as_json()["lengths"]["1-1"] == 2 and card.as_json()["lengths"]["1024-2047"] == 1024


def test_samples_are_shortened_and_fenced():
    card = Card()
    card.add(1, "x" * (SHOWN + 5))
    assert card.samples == ["x" * SHOWN + " ... (5 more characters)"]
    assert json.loads(json.dumps(card.as_json())) == card.as_json()


def test_names_of_others_stay_text(tmp_path):
    """Names of files and data sets end no cell and become no markup, wherever the page has them."""
    name = "a|b<script>x</script>![y](http://z)\n# c"
    card = Card(notes=[name], place=name)
    card.sources[name] += 1
    card.drop(name)
    card.match(Match(name, 1, name))
    write(tmp_path, {"sft": card})
    page = (tmp_path / "report.md").read_text()
    rows = [line for line in page.splitlines() if "script" in line]
    assert len(rows) == 6 and page.count(escape_markdown(name)) == 9
    assert not re.search(r"(?<!\\)[<\[]", page)
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [0, 3, 3, 3, 3, 4]
