"""Storage on a local path and on two real S3 servers: the same semantics, and one-line errors."""

import contextlib
import os
import random
import socket
import socketserver
import tempfile
import threading
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import pytest

from components import storage
from components.storage import AlreadyThere, StorageError, directories
from tests.components.conftest import point_at
from tests.components.storage.faulty_server import Faulty


def contents(root):
    return {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file()
    }


def test_directory_round_trip(place, folder, tmp_path):
    assert not storage.exists(place) and storage.list_files(place) == {}
    directories.put_directory(folder, place)
    assert storage.exists(place) and storage.exists(storage.join(place, "below/text"))
    assert set(storage.list_files(place)) == {*contents(folder), storage.MANIFEST}
    directories.get_directory(place, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    storage.delete(place)
    assert not storage.exists(place) and storage.list_files(place) == {}
    storage.delete(place)


def test_commit_is_conditional(place, folder, tmp_path):
    directories.put_directory(folder, place)
    directories.put_directory(folder, place)
    (folder / "empty").write_text("other")
    with pytest.raises(AlreadyThere, match="another complete directory"):
        directories.put_directory(folder, place)
    directories.put_directory(folder, place, replace=True)
    directories.get_directory(place, tmp_path / "back")
    assert (tmp_path / "back" / "empty").read_text() == "other"


def test_cut_short_is_never_read(place, folder, tmp_path):
    directories.put_directory(folder, place)
    storage.delete(storage.join(place, storage.MANIFEST))
    assert not storage.exists(place)
    assert directories.list_directories(place.rpartition("/")[0]).count(place) == 0
    with pytest.raises(FileNotFoundError, match=r"no \.manifest\.json, so it is not complete"):
        directories.get_directory(place, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_damage_is_named(place, folder, tmp_path):
    directories.put_directory(folder, place)
    storage.put_file(folder / "empty", storage.join(place, "below/text"))
    with pytest.raises(StorageError, match="below/text: its sha256 is not the manifest's"):
        directories.get_directory(place, tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir() if "draft" in path.name] == []


def test_complete_directories_are_listed(place, folder):
    for name in ("step-2", "step-10"):
        directories.put_directory(folder, storage.join(place, name))
    storage.write_json(storage.join(place, "step-3/half"), {})
    assert directories.list_directories(place) == ["step-10", "step-2"]


@pytest.mark.parametrize("name", ["s3://bucket", "s3://bucket/", "s3://bucket/a/", "s3://", ""])
def test_nothing_without_a_name_is_deleted(s3, name):
    storage.write_json("s3://bucket/a/b", 1)
    with pytest.raises(StorageError, match="names nothing to delete"):
        storage.delete(name)
    assert storage.read_json("s3://bucket/a/b") == 1


def test_folder_markers_are_no_files(juicefs, monkeypatch, folder, tmp_path):
    """nanio refuses such names, as the names of empty folders."""
    point_at(juicefs, monkeypatch)
    place = f"s3://bucket/{random.getrandbits(32):x}"
    key = place.removeprefix("s3://bucket/")
    for name in ("/", "/below/", "/other/"):
        juicefs.client().put_object(Bucket="bucket", Key=key + name)
    assert storage.list_files(place) == {}
    directories.put_directory(folder, place)
    assert set(storage.list_files(place)) == {*contents(folder), storage.MANIFEST}
    directories.get_directory(place, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


HOSTILE = ["m/../../escaped", "../escaped", "/tmp/escaped", "a//b"]


@pytest.mark.parametrize("name", HOSTILE)
def test_manifest_names_stay_below(place, folder, tmp_path, name):
    """A manifest from a stranger writes nothing outside of the directory."""
    directories.put_directory(folder, place)
    manifest = storage.read_json(storage.join(place, storage.MANIFEST))
    manifest["files"][name] = manifest["files"]["empty"]
    storage.write_json(storage.join(place, storage.MANIFEST), manifest)
    with pytest.raises(StorageError, match="allowed: a file below this directory"):
        directories.get_directory(place, tmp_path / "m" / "back")
    assert not list(tmp_path.rglob("*escaped*")) and not (tmp_path / "m" / "back").exists()


@pytest.mark.parametrize("data", [*HOSTILE, "a/"])
def test_the_folder_of_a_manifest_stays_below(place, folder, tmp_path, data):
    """It is read below the location, and swept there."""
    directories.put_directory(folder, place)
    manifest = storage.read_json(storage.join(place, storage.MANIFEST))
    storage.write_json(storage.join(place, storage.MANIFEST), {**manifest, "data": data})
    with pytest.raises(StorageError, match="allowed: a file below this directory"):
        directories.get_directory(place, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("name", ["m/../../escaped.json", "../escaped.json", "/escaped.json"])
def test_object_names_stay_below(nanio, monkeypatch, tmp_path, name):
    """A bucket of a stranger writes nothing outside of the copy."""
    point_at(nanio, monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    storage.write_json("s3://bucket/model/config.json", 1)

    def rename(handler, ask):
        answer = ask()
        for own in (b"model/config.json", b"model%2Fconfig.json"):
            answer.body = answer.body.replace(own, f"model/{name}".encode())
        answer.length = len(answer.body)
        return answer

    with Faulty(nanio, rename) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        with pytest.raises(StorageError, match="allowed: a file below this directory"):
            storage.fetch("s3://bucket/model", None, kind="model", patterns=["*.json"])
    assert not list(tmp_path.rglob("*escaped*"))


def test_json(place):
    file = storage.join(place, "state.json")
    storage.write_json(file, {"step": 1, "text": "ä"})
    storage.write_json(file, {"step": 2})
    assert storage.read_json(file) == {"step": 2}
    with pytest.raises(AlreadyThere, match=r"state\.json: is there already"):
        storage.write_json(file, {"step": 3}, new=True)
    assert storage.read_json(file) == {"step": 2}
    with pytest.raises(FileNotFoundError, match="missing"):
        storage.read_json(storage.join(place, "missing"))


def test_file_is_seekable(place, folder):
    content = (folder / "large").read_bytes()
    storage.put_file(folder / "large", storage.join(place, "large"))
    with storage.open_file(storage.join(place, "large")) as stream:
        assert stream.seek(-5, os.SEEK_END) == len(content) - 5
        assert stream.read() == content[-5:]
        stream.seek(7)
        assert stream.read(10) == content[7:17]
        stream.seek(0)
        assert stream.read() == content


def test_find(place, folder):
    for name in ("a.jsonl", "b.jsonl", "c.txt", "below/d.jsonl"):
        storage.put_file(folder / "below" / "text", storage.join(place, name))

    def found(pattern):
        return list(storage.find(storage.join(place, pattern)).files.values())

    assert found("*.jsonl") == [f"{place}/a.jsonl", f"{place}/b.jsonl"]
    assert found("*/?.jsonl") == [f"{place}/below/d.jsonl"]
    assert len(storage.find(place).files) == 4
    assert found("c.txt") == [f"{place}/c.txt"]
    with pytest.raises(FileNotFoundError, match=r"\*\.zst: no such file"):
        storage.find(storage.join(place, "*.zst"))


def test_two_writers_leave_what_one_of_them_wrote(s3, tmp_path):
    """Whichever manifest counts, its files are whole."""
    for number in range(5):
        place = f"s3://bucket/two-{random.getrandbits(32):x}"

        def write(writer, place=place, number=number):
            local = tmp_path / f"{number}-{writer}"
            local.mkdir()
            for name in "abcdef":
                (local / name).write_text(writer)
            with contextlib.suppress(AlreadyThere):
                directories.put_directory(local, place, writer=writer)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(write, ("one", "other")))
        directories.get_directory(place, tmp_path / f"back-{number}")
        back = contents(tmp_path / f"back-{number}")
        assert back.keys() == set("abcdef") and len(set(back.values())) == 1


def test_second_writer_loses(s3, folder):
    """Where the server knows If-None-Match, it decides; elsewhere the look before writing does."""
    file = f"s3://bucket/{random.getrandbits(32):x}/once.json"
    storage.write_json(file, {"writer": 1}, new=True)
    with pytest.raises(AlreadyThere):
        storage.write_json(file, {"writer": 2}, new=True)
    assert storage.read_json(file) == {"writer": 1}


class Cutting(socketserver.ThreadingTCPServer):
    """Stands between client and server and cuts its first answers after some thousand bytes."""

    allow_reuse_address, daemon_threads = True, True

    def __init__(self, target, cuts):
        super().__init__(("127.0.0.1", 0), Between)
        self.target, self.cuts, self.lock = target, cuts, threading.Lock()

    def limit(self):
        with self.lock:
            self.cuts -= 1
            return 5000 if self.cuts >= 0 else None


class Between(socketserver.BaseRequestHandler):
    def handle(self):
        with socket.create_connection(self.server.target) as upstream:
            threading.Thread(target=self.forward, args=(self.request, upstream, None)).start()
            self.forward(upstream, self.request, self.server.limit())

    def forward(self, source, target, limit):
        done = 0
        try:
            while (limit is None or done < limit) and (content := source.recv(65536)):
                content = content if limit is None else content[: limit - done]
                target.sendall(content)
                done += len(content)
            target.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other side went first


@pytest.mark.parametrize("read", ["stream", "file"])
def test_broken_connections_are_tried_again(s3, folder, monkeypatch, tmp_path, read):
    place = f"s3://bucket/cut-{random.getrandbits(32):x}"
    storage.put_file(folder / "large", place)
    target = urllib.parse.urlsplit(s3.endpoint)
    with Cutting((target.hostname, target.port), cuts=3) as between:
        threading.Thread(target=between.serve_forever).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{between.server_address[1]}")
        if read == "stream":
            with storage.open_file(place) as stream:
                content = stream.read()
        else:
            storage.get_file(place, tmp_path / "new")
            content = (tmp_path / "new").read_bytes()
        between.shutdown()
        assert between.cuts < 0
    assert content == (folder / "large").read_bytes()
