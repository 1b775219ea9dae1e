"""One rule for which files a location names: here, on S3 servers and on the Hub's stand-in."""

import os
import random

import pytest
from huggingface_hub import HfFileSystem

from components import storage
from components.data import sources
from components.data.config import Source
from components.drawing import escape_markdown
from tests.components.conftest import point_at
from tests.components.corpora import download, prose, write_jsonl
from tests.components.storage.hub_server import Hub

ROW = b'{"text": "a row"}\n'
TREE = {
    ".artifact.json": b"{}",
    ".gitattributes": b"* text\n",
    ".ipynb_checkpoints/a.jsonl": ROW,
    "LICENSE": b"MIT\n",
    "README.md": b"# A card\n",
    "README.txt": b"A card\n",
    "_SUCCESS": b"",
    "data/._a.jsonl": b"\x00",
    "data/.DS_Store": b"\x00",
    "data/a.jsonl": ROW,
    "data/b1.jsonl": ROW,
    "data/empty.jsonl": b"",
    "data/x/b.jsonl.gz": b"\x00",
    "data/x/y/c.JSONL": ROW,
    "data/x/y/d[1].jsonl": ROW,
    "dataset_infos.json": b"{}",
    "load.py": b"pass\n",
    "notes/more.md": b"# Notes\n",
    "notes/pages.md.gz": b"\x00",
    "picture.png": b"\x00",
}
ALL = ["data/a.jsonl", "data/b1.jsonl", "data/x/b.jsonl.gz", "data/x/y/c.JSONL"]
ALL += ["data/x/y/d[1].jsonl", "notes/pages.md.gz"]
LEFT_OUT = {
    ".artifact.json": "hidden",
    ".gitattributes": "hidden",
    ".ipynb_checkpoints/": "hidden",
    "LICENSE": "not data",
    "README.md": "not data",
    "README.txt": "not data",
    "_SUCCESS": "empty",
    "data/._a.jsonl": "hidden",
    "data/.DS_Store": "hidden",
    "data/empty.jsonl": "empty",
    "dataset_infos.json": "not data",
    "load.py": "not data",
    "notes/more.md": "not data",
    "picture.png": "unknown kind",
}
HIDDEN = {"._a.jsonl": "hidden", ".DS_Store": "hidden", "empty.jsonl": "empty"}
# Below the tree: what is found, and what is left out, None where it is not looked at.
CASES = [
    ("", ALL, LEFT_OUT),
    ("/", ALL, LEFT_OUT),
    ("/**", ALL, LEFT_OUT),
    ("/data", ALL[:5], HIDDEN),
    ("/data/", ALL[:5], HIDDEN),
    ("/data/**/*.jsonl", ["data/a.jsonl", "data/b1.jsonl", "data/x/y/d[1].jsonl"], None),
    ("/**/*.jsonl", ["data/a.jsonl", "data/b1.jsonl", "data/x/y/d[1].jsonl"], None),
    ("/**/x/**/*", ALL[2:5], {}),
    ("/**/y/*", ALL[3:5], {}),
    ("/data/**", ALL[:5], HIDDEN),
    ("/data/*", ALL[:2], HIDDEN),
    ("/data/*.jsonl", ALL[:2], {"._a.jsonl": "hidden", "empty.jsonl": "empty"}),
    ("/data/**.jsonl", ALL[:2], {"._a.jsonl": "hidden", "empty.jsonl": "empty"}),
    ("/data/*/*", ALL[2:3], {}),
    ("/data/?.jsonl", ALL[:1], {}),
    ("/data/[a-z].jsonl", ALL[:1], {}),
    ("/data/[ab]*.jsonl", ALL[:2], {}),
    ("/data/[!b]*.jsonl", ALL[:1], None),
    ("/data/x/y/d[1].jsonl", ALL[4:5], {}),
    ("/data/x/y/d[[]1].jsonl", ALL[4:5], {}),
    ("/data/x/y/[cd]*", ALL[3:5], {}),
    ("/.ipynb_checkpoints/*.jsonl", [".ipynb_checkpoints/a.jsonl"], {}),
    ("/.ipynb_checkpoints", [".ipynb_checkpoints/a.jsonl"], {}),
    ("/README.md", ["README.md"], {}),
    ("/*.md", ["README.md"], {}),
    ("/**/*.md", ["README.md", "notes/more.md"], {}),
    ("/data/empty.jsonl", ["data/empty.jsonl"], {}),
]
NOTHING = ["/nothing", "/data/*.csv", "/data/x/*.jsonl", "/**/z/*", "/data/[x].jsonl", "/_SUCC*"]


@pytest.fixture(params=["local", "nanio", "juicefs", "hub"])
def tree(request, tmp_path, monkeypatch):
    """The location of the tree in one of the places; on S3 with what stands for folders."""
    if request.param == "hub":
        with Hub(tree=TREE) as hub:
            monkeypatch.setattr(HfFileSystem, "cachable", False)
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
            yield "hf://datasets/owner/tree"
    elif request.param == "local":
        for name, content in TREE.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
        yield str(tmp_path)
    else:
        server = request.getfixturevalue(request.param)
        point_at(server, monkeypatch)
        prefix = f"tree-{random.getrandbits(32):x}"
        markers = {"": b"", "data/": b"", "none/": b""} if server.name == "juicefs" else {}
        for name, content in {**markers, **TREE}.items():  # nanio takes no such key
            server.client().put_object(Bucket="bucket", Key=f"{prefix}/{name}", Body=content)
        listed = server.client().list_objects_v2(Bucket="bucket", Prefix=f"{prefix}/")["Contents"]
        assert markers.keys() <= {item["Key"].removeprefix(f"{prefix}/") for item in listed}
        yield f"s3://bucket/{prefix}"


def test_one_rule_for_every_place(tree):
    for below, wanted, left_out in CASES:
        found = sources.files(Source(location=tree + below))
        assert list(found.kinds) == [f"{tree}/{name}" for name in wanted], below
        assert left_out is None or found.left_out == left_out, below
    for below in NOTHING:
        with pytest.raises(FileNotFoundError, match="no such file"):
            sources.files(Source(location=tree + below))


def test_links_are_followed_and_loops_are_not(tmp_path):
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "elsewhere/deep/a.jsonl").write_bytes(ROW)
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (root / "file.jsonl").symlink_to(tmp_path / "elsewhere/deep/a.jsonl")
    (root / "broken.jsonl").symlink_to(tmp_path / "nothing")
    (root / "below/loop").symlink_to(root)
    (root / "below/itself").symlink_to(root / "below/itself")
    os.mkfifo(root / "pipe.jsonl")
    found = sources.files(Source(location=str(root)))
    assert list(found.kinds) == [f"{root}/file.jsonl", f"{root}/folder/deep/a.jsonl"]
    bad = ("below/itself", "below/loop", "broken.jsonl", "pipe.jsonl")
    assert found.left_out == dict.fromkeys(bad, "not a file that can be read")
    found = storage.find(root / "*/**/a.jsonl")
    assert list(found.files.values()) == [f"{root}/folder/deep/a.jsonl"]


def test_what_is_left_out_is_said(tmp_path, base, capsys):
    for name in (".gitattributes", "LICENSE", "README.md", "load.py", "x.csv", "y.csv"):
        (tmp_path / "repo" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "repo" / name).write_text("words\n")
    folder, sample = str(tmp_path / "repo"), {"min_tokens": 1, "long_share": 0}
    with pytest.raises(SystemExit):
        download(tmp_path / "none", base, pretrain=[{"location": folder}], sample=sample)
    assert "unknown kind of file, allowed: .jsonl" in (line := capsys.readouterr().err)
    assert "6 left out: .gitattributes (hidden), LICENSE (not data), README.md (not data)" in line
    write_jsonl(tmp_path / "repo/data/train.jsonl", [{"text": prose(60, 0)}])
    _, report = download(tmp_path / "one", base, pretrain=[{"location": folder}], sample=sample)
    note = f"{folder}: files read: 1; 6 left out: .gitattributes (hidden), LICENSE (not data), "
    note += "README.md (not data), load.py (not data), x.csv (unknown kind), 1 more"
    assert report["pretrain"]["documents"] == 1 and report["pretrain"]["notes"] == [note]
    assert capsys.readouterr().out.count(note) == 1
    page = (tmp_path / "one/dataset/report.md").read_text()
    assert escape_markdown(note) in page.splitlines()


@pytest.mark.parametrize(
    ("format", "wanted", "left_out"),
    [
        ("auto", ["a.jsonl", "c.txt"], ["README", "b.md", "d.rows"]),
        ("text", ["b.md", "c.txt", "d.rows"], ["README", "a.jsonl"]),
        ("jsonl", ["a.jsonl", "d.rows"], ["README", "b.md", "c.txt"]),
    ],
)
def test_a_format_that_is_named_takes_what_has_no_other(tmp_path, format, wanted, left_out):
    for name in ("README", "a.jsonl", "b.md", "c.txt", "d.rows"):
        (tmp_path / name).write_bytes(ROW)
    found = sources.files(Source(location=str(tmp_path), format=format))
    assert [file.rpartition("/")[2] for file in found.kinds] == wanted
    assert sorted(found.left_out) == left_out
