"""Pretraining documents: the quality rules, the sample by length, and the tokenised shards."""

import json
import random

import numpy as np
import pytest

from components.data import corpus, quality, token_shards
from components.data.config import Sample
from components.data.corpus import Quotas
from components.data.datacard import Card
from components.data.token_shards import Document, Shards, tokenize
from model.tokenizer import EOS, EOT, MASK, train_tokenizer
from tests.components.corpora import WORDS, download, prose, write_jsonl

RANDOM = random.Random(3)
BAD = {
    "broken_encoding": prose(200, 0).replace("a", "\ufffd"),
    "much_space": "   ".join(
        "words and a few more of them in very short lines".replace(" ", "   ")
    ),
    "few_letters": " ".join(str(RANDOM.randrange(10**6)) for _ in range(300)),
    "unbroken_run": prose(300, 1) + "".join(RANDOM.choices("abcdefghijklmnop", k=1200)),
    "repeated_lines": prose(100, 2) + "\n" + "\n".join(["the same line again"] * 60),
    "repetitive": "the same words " * 300,
}


@pytest.mark.parametrize("rule", BAD)
def test_each_quality_rule(rule):
    assert quality.fault(BAD[rule]) == rule
    assert BAD.keys() == quality.RULES.keys()


def test_good_text_passes():
    assert quality.fault(prose(500, 0)) is None
    assert quality.fault(prose(200_000, 0)) is None
    assert (
        quality.fault("\n\n".join(f"def {word}(x):\n    return {word} + x" for word in WORDS))
        is None
    )
    assert quality.fault("한국어와 日本語、それに中文。" * 3) is None


def test_long_text_is_judged_to_its_end():
    assert quality.fault(prose(20_000, 0)) is None
    assert quality.fault(prose(20_000, 0) + "12 " * 100_000) == "few_letters"


def kept(lengths, **fields):
    """The lengths that a sample keeps."""
    quotas, found = Quotas(Sample(**fields)), []
    for length in lengths:
        if quotas.refusal(length) is None and not quotas.full:
            quotas.take(length)
            found.append(length)
    return found


def test_the_sample_by_default():
    sample = Sample()
    assert (sample.long_tokens, sample.min_tokens, sample.long_share) == (8096, 128, 0.9)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 0.9, 0.95])
def test_shares_hold_without_a_number(share):
    lengths = [8096, 8095, 128, 127] * 1000
    found = kept(lengths, long_share=share)
    long = sum(length >= 8096 for length in found)
    assert long == 1000 and 127 not in found
    assert len(found) - long == min(round(1000 * (1 - share) / share - 0.499), 2000)


def test_shares_hold_with_a_number():
    lengths = [127, 128, 8095, *[8096] * 3] * 1000
    found = kept(lengths, documents=200)
    assert len(found) == 200
    assert sum(length >= 8096 for length in found) == 180 and min(found) == 128


def test_all_are_taken_as_they_come_without_a_share():
    assert kept([1, 128, 9000, 127] * 2, long_share=0) == [128, 9000] * 2


def test_text_that_is_too_short_however_tokenised_is_refused_before():
    quotas = Quotas(Sample())
    assert quotas.hopeless("x" * 126) == "too_short"
    assert quotas.hopeless("ü" * 64) == "enough_short"
    assert quotas.hopeless("x" * 8095) is None


def test_sample_through_the_stage(tmp_path, base, tokenizer):
    texts = [prose(size, seed) for seed in range(30) for size in (4, 40, 400)]
    rows = [{"text": text} for text in [*texts, *BAD.values()]]
    named = [{"location": write_jsonl(tmp_path / "rows.jsonl", rows)}]
    sample = {"min_tokens": 50, "long_tokens": 1000, "long_share": 0.9}
    dataset, report = download(tmp_path / "all", base, pretrain=named, sample=sample)
    lengths = Shards(dataset / "pretrain", tokenizer).lengths
    assert (lengths >= 1000).sum() == 30 and (lengths < 1000).sum() == 3 and min(lengths) >= 50
    dropped = report["pretrain"]["dropped"]
    assert dropped == {**dict.fromkeys(BAD, 1), "too_short": 30, "enough_short": 27}
    dataset, report = download(
        tmp_path / "some", base, pretrain=named, sample={**sample, "documents": 10}
    )
    lengths = Shards(dataset / "pretrain", tokenizer).lengths
    assert (lengths >= 1000).sum() == 9 and len(lengths) == 10
    _, report = download(
        tmp_path / "many", base, pretrain=named, sample={**sample, "documents": 100}
    )
    assert any("wanted 90 long and 10 shorter" in note for note in report["pretrain"]["notes"])
    sample = {"quality": False, "min_tokens": 1, "long_share": 0}
    _, report = download(tmp_path / "unfiltered", base, pretrain=named, sample=sample)
    assert report["pretrain"]["documents"] == len(rows) and not report["pretrain"]["dropped"]


def written(directory, texts, tokenizer):
    corpus.write(directory, texts, tokenizer, corpus.ALL, Card())
    return Shards(directory, tokenizer)


def test_several_shards_read_as_one(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(token_shards, "SHARD", 1000)
    texts = [prose(size, size) for size in (10, 900, 150, 3, 200, 200, 1, 80)]
    found = written(tmp_path / "shards", texts, tokenizer)
    manifest = json.loads((tmp_path / "shards" / "manifest.json").read_text())
    assert len(found) == manifest["documents"] == len(texts)
    assert manifest["tokens"] == sum(found.lengths) and len(manifest["shards"]) > 3
    assert all(shard["tokens"] <= 1000 or shard["documents"] == 1 for shard in manifest["shards"])
    for shard in manifest["shards"]:
        assert (tmp_path / "shards" / shard["file"]).stat().st_size == 4 * shard["tokens"]
    for number, text in enumerate(texts):
        ids = found.tokens(number)
        assert isinstance(ids, np.memmap) and len(ids) == found.lengths[number]
        assert ids.tolist() == [*tokenizer.encode(text), tokenizer.eos_token_id]
        assert found.tokens(number, 1, 3).tolist() == ids[1:3].tolist()
        assert found.tokens(number, 1, 10**6).tolist() == ids[1:].tolist()


def test_another_tokenizer_is_refused(tmp_path, tokenizer):
    written(tmp_path / "shards", [prose(50, 0)], tokenizer)
    other = train_tokenizer([prose(300, 99)], vocabulary=330)
    with pytest.raises(ValueError, match="tokenised with another tokenizer than the model's"):
        Shards(tmp_path / "shards", other)
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        Shards(tmp_path, tokenizer)


def test_what_looks_like_a_special_token_is_text(tokenizer):
    text = f"before {EOS} {MASK}{EOT} after"
    ((document, ids),) = tokenize([Document(text, "a:1")], tokenizer)
    assert document == (text, "a:1")
    assert tokenizer.decode(ids[:-1]) == text and ids[-1] == tokenizer.eos_token_id
    assert not set(ids[:-1].tolist()) & set(tokenizer.all_special_ids)
    assert len(tokenizer.encode(EOT)) == 1, "a dialogue's own tokens stay special"


def test_long_text_in_pieces(tokenizer, monkeypatch):
    """The text comes back whole, and cuts at the ends of lines change no token."""
    texts = [prose(500, 0), "", "x" * 300, "short", f"{'ü' * 90} {'한' * 90}\n\n\n", prose(30, 1)]
    documents = [Document(text) for text in texts]
    whole = [ids for _, ids in tokenize(documents, tokenizer)]
    monkeypatch.setattr(token_shards, "BATCH", 100)
    rows = list(tokenize(documents, tokenizer))
    assert [document for document, _ in rows] == documents
    pieces = [ids for _, ids in rows]
    for text, ids in zip(texts, pieces, strict=True):
        assert tokenizer.decode(ids[:-1]) == text
    assert pieces[0].tolist() == whole[0].tolist() == [*tokenizer.encode(texts[0]), ids[-1]]
    for one, other in zip(whole, pieces, strict=True):
        assert abs(len(one) - len(other)) <= 6
