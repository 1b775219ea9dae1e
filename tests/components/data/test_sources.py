"""Rows from files of every kind and place, several sources by weight, and rows that are none."""

import datetime
import gzip
import json
import random

import pyarrow
import pyarrow.parquet
import pytest

from components import storage
from components.data import dataset as data
from components.data import sources
from components.data.config import Source
from components.storage import objects
from tests.components.corpora import download, prose, write_jsonl

ALL = {"min_tokens": 1, "long_share": 0}


def rows(location, **fields):
    """What is in the place of every row of a source, for its text."""
    source = Source(location=str(location), **fields)
    return [row for _, _, row in sources.rows(sources.files(source), {source.column})]


def zst(content):
    return pyarrow.compress(content, "zstd", asbytes=True)


def parquet(texts):
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.table({"text": texts, "other": list(range(len(texts)))})
    pyarrow.parquet.write_table(table, sink, row_group_size=3)
    return sink.getvalue().to_pybytes()


def files():
    """The content of a file of each kind by its name, and the texts that they hold."""
    texts = [prose(60, seed) for seed in range(8)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts[:2]).encode()
    more = "".join(json.dumps({"text": text}) + "\n\n" for text in texts[2:4]).encode()
    found = {
        "a.jsonl": lines,
        "b.jsonl.gz": gzip.compress(lines) + gzip.compress(more),
        "below/c.ndjson.zst": zst(lines) + zst(more),
        "d.parquet": parquet(texts),
        "e.txt": texts[4].encode(),
        "f.txt.gz": gzip.compress(texts[5].encode()),
        "g.md.zst": zst(texts[6].encode()),
    }
    return found, [*texts[:2], *texts[:4], *texts[:4], *texts, *texts[4:7]]


def test_every_kind_from_every_place(place, tmp_path, base, tokenizer):
    content, texts = files()
    for name, given in content.items():
        local = tmp_path / "local" / name
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(given)
        storage.put_file(local, f"{place}/{name}")
    read = [row["text"] for row in rows(place)]
    assert sorted(read) == sorted(texts)
    one = rows(f"{place}/*.txt*")
    assert [row["text"] for row in one] == texts[-3:-1]
    _, report = download(tmp_path, base, pretrain=[{"location": place}], sample=ALL)
    assert report["pretrain"]["documents"] == len(texts)
    assert report["pretrain"]["sources"] == {place: len(texts)}
    assert report["pretrain"]["tokens"] == sum(len(tokenizer.encode(text)) + 1 for text in texts)


def test_format_and_column_may_be_named(tmp_path):
    path = tmp_path / "data.bin"
    path.write_text(json.dumps({"body": "words"}) + "\n")
    assert rows(path, format="jsonl", column="body") == [{"body": "words"}]
    (row,) = rows(path, format="text", column="body")
    assert json.loads(row["body"]) == {"body": "words"}


def test_long_text_file_is_cut_at_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PIECE", 1000)
    text = prose(3000, 0)
    (tmp_path / "long.txt").write_text(text)
    pieces = [row["text"] for row in rows(tmp_path / "long.txt")]
    assert "".join(pieces) == text
    assert len(pieces) > 10
    assert all(piece.endswith("\n") and len(piece) < 1200 for piece in pieces[:-1])


def drawn(tmp_path, weights, rows, seed):
    named = [
        Source(
            location=write_jsonl(tmp_path / f"{name}.jsonl", [{"text": name}] * rows),
            weight=weight,
        )
        for name, weight in weights.items()
    ]
    found = [sources.files(source) for source in named]
    drawn = sources.interleave(found, lambda source: {source.column}, seed=seed)
    return [row["text"] for *_, row in drawn]


def test_sources_are_drawn_by_weight(tmp_path):
    names = drawn(tmp_path, {"often": 3, "seldom": 1}, 2000, seed=0)
    assert 0.7 < names[:2000].count("often") / 2000 < 0.8
    assert names.count("often") == names.count("seldom") == 2000
    assert names == drawn(tmp_path, {"often": 3, "seldom": 1}, 2000, seed=0)
    assert names != drawn(tmp_path, {"often": 3, "seldom": 1}, 2000, seed=1)


def test_rows_that_are_none_are_counted(tmp_path, base, monkeypatch):
    monkeypatch.setattr(sources, "LONGEST", 4000)
    good = json.dumps({"text": prose(100, 0) + " \ud55c \U0001f600"})
    lines = [good, json.dumps({"text": "x " * 9000}), r'{"text": "half \ud83d of a pair"}']
    lines += [json.dumps({"text": 7}), json.dumps({"other": "text"}), '{"text": "  "}', good]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    _, report = download(tmp_path, base, pretrain=[{"location": str(path)}], sample=ALL)
    assert report["pretrain"]["documents"] == 2
    assert report["pretrain"]["dropped"] == {
        "too_large": 1,
        "unpaired_surrogate": 1,
        "no_text": 3,
    }


def test_raw_surrogate_and_byte_order_mark(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n{"text": "\xed\xa0\x80"}\n')
    read = rows(path)
    assert read == [{"text": "a"}, "unpaired_surrogate"]


def table(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return str(path)


BYTES = pyarrow.array([b"a", b"\xff", b"c"])
NOT_UTF8 = pyarrow.Array.from_buffers(pyarrow.string(), 3, BYTES.buffers())
YEARS = pyarrow.array([0, 570_000_000_000_000, -(2**62)], pyarrow.timestamp("ms"))
NESTED = pyarrow.StructArray.from_arrays([YEARS, NOT_UTF8], ["when", "what"])


@pytest.mark.parametrize(
    ("odd", "wanted"),
    [
        (NOT_UTF8, [{"text": "a"}, "not_utf8", {"text": "c"}]),
        (YEARS, [{"text": datetime.datetime(1970, 1, 1)}, *["unreadable_value"] * 2]),
        (NESTED.slice(1, 2), ["unreadable_value"] * 2),
        (BYTES, [{"text": b"a"}, {"text": b"\xff"}, {"text": b"c"}]),
    ],
    ids=["not-utf8", "years", "nested", "bytes"],
)
def test_only_the_columns_that_are_needed_are_read(tmp_path, odd, wanted):
    """What stands in others does not matter; in those that are needed it is counted by name."""
    texts = [f"text {number}" for number in range(len(odd))]
    other = table(tmp_path / "other.parquet", text=texts, odd=odd)
    assert rows(other) == [{"text": text} for text in texts]
    assert rows(table(tmp_path / "needed.parquet", text=odd, other=texts)) == wanted


def test_columns_of_parquet(tmp_path):
    assert rows(table(tmp_path / "none.parquet", other=[1, 2])) == [{}, {}]
    dotted = table(tmp_path / "dot.parquet", **{"meta.text": ["a"], "other": ["b"]})
    assert rows(dotted, column="meta.text") == [{"meta.text": "a"}]
    twice = pyarrow.table([["a"], ["b"]], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "twice.parquet")
    assert rows(tmp_path / "twice.parquet") == ["duplicate_key"]


def test_odd_parquet_through_the_stage(tmp_path, base):
    talks = {"prompt": NOT_UTF8, "completion": ["a", "b", "c"], "created": YEARS, "raw": NOT_UTF8}
    named = [{"location": table(tmp_path / "talks.parquet", **talks)}]
    dataset, report = download(tmp_path, base, sft=named)
    assert report["sft"]["dropped"] == {"not_utf8": 1}
    assert report["sft"]["first_dropped"] == {"not_utf8": f"{tmp_path}/talks.parquet:2"}
    assert [row["messages"][0]["content"] for row in data.read(dataset, "sft")] == ["a", "c"]


def test_text_that_is_not_utf8(tmp_path, monkeypatch):
    """No character is lost where a text is cut; a piece that is not UTF-8 is counted."""
    monkeypatch.setattr(sources, "PIECE", 100)
    monkeypatch.setattr(sources, "LONGEST", 7)
    text = "한국어 without an end of line " * 40
    (tmp_path / "whole.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert "".join(row["text"] for row in rows(tmp_path / "whole.txt")) == text
    (tmp_path / "odd.txt").write_bytes(b"caf\xe9" + b"\n" * 97 + b"more " * 30 + b"\xe2")
    assert rows(tmp_path / "odd.txt") == ["not_utf8", {"text": "more " * 21 + "mo"}, "not_utf8"]


def test_s3_is_read_by_ranges(s3, tmp_path):
    """More than one range of an object, at places where no line ends."""
    rng = random.Random(0)
    given = [{"text": rng.randbytes(1600).hex()} for _ in range(3000)]
    local = write_jsonl(tmp_path / "rows.jsonl", given)
    storage.put_file(tmp_path / "rows.jsonl", "s3://bucket/ranges/rows.jsonl")
    assert (tmp_path / "rows.jsonl").stat().st_size > objects.PART
    assert rows("s3://bucket/ranges/rows.jsonl") == rows(local) == given
