"""Directories to object storage and back: few requests, nothing twice, gone on after a break."""

import collections
import contextlib
import hashlib
import random
import re

import pytest

from components import storage, temporary
from components.storage import Unavailable, connection, directories, progress, transfers
from tests.components.conftest import point_at
from tests.components.storage.conftest import PART
from tests.components.storage.faulty_server import Faulty, busy
from tests.components.storage.test_storage import contents

CONTENT = random.Random(3).randbytes(21 << 20)


@pytest.fixture
def place():
    return f"s3://bucket/transfers-{random.getrandbits(32):x}"


@pytest.fixture
def many(tmp_path):
    """Thirty small files in two folders."""
    for number in range(30):
        file = tmp_path / "many" / str(number % 2) / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"file {number}")
    return tmp_path / "many"


@contextlib.contextmanager
def counted(server, monkeypatch, fault=lambda handler, ask: ask()):
    """A proxy before the server for the block; it keeps its requests."""
    with Faulty(server, fault) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)


def methods(proxy):
    return collections.Counter(request.partition(" ")[0] for request in proxy.requests)


def test_a_directory_takes_a_request_a_file(s3, place, many, monkeypatch, tmp_path):
    """And a few for its manifest; all of it is deleted by one."""
    with counted(s3, monkeypatch) as proxy:
        directories.put_directory(many, place)
        assert methods(proxy) == {"GET": 2, "PUT": 31}  # two listings
        proxy.requests.clear()
        directories.get_directory(place, tmp_path / "back")
        assert methods(proxy) == {"GET": 31}
        proxy.requests.clear()
        storage.delete(place)
        # JuiceFS keeps the folders: they are listed, and each of the two is removed by itself.
        folders = 3 if s3.name == "juicefs" else 0
        assert len(proxy.requests) <= 4 + folders and storage.list_files(place) == {}
    assert contents(tmp_path / "back") == contents(many)


def test_unchanged_files_are_not_sent_again(s3, place, many, monkeypatch, tmp_path):
    """JuiceFS gives no ETag; there the manifest of a complete directory tells."""
    directories.put_directory(many, place)
    (many / "0" / "2.txt").write_text("changed")
    (many / "0" / "4.txt").unlink()
    with counted(s3, monkeypatch) as proxy:
        directories.put_directory(many, place, replace=True)
    assert methods(proxy)["PUT"] == 2  # the file and the manifest
    directories.get_directory(place, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(many)


def test_files_that_were_sent_before_a_break_are_not_sent_again(nanio, place, many, monkeypatch):
    point_at(nanio, monkeypatch)
    monkeypatch.setenv("STORAGE_RETRY_MINUTES", "0.001")

    def refuse(handler, ask):
        return busy() if handler.command == "PUT" and "/29.txt" in handler.path else ask()

    with counted(nanio, monkeypatch, refuse), pytest.raises(Unavailable):
        directories.put_directory(many, place)
    with counted(nanio, monkeypatch) as proxy:
        directories.put_directory(many, place)
    assert methods(proxy)["PUT"] <= 1 + transfers.FILES  # those on their way, and the manifest


@pytest.mark.parametrize(
    ("parts", "checksum", "sent"),
    [
        ([CONTENT[:PART]], CONTENT, [2, 3]),
        ([CONTENT[:PART], CONTENT[PART : 2 * PART]], CONTENT, [3]),
        ([b"x" * PART], CONTENT, [1, 2, 3]),
        ([CONTENT[:PART]], b"another file", [2, 3, 1, 2, 3]),
    ],
    ids=["one", "two", "other content", "other file"],
)
def test_the_parts_of_a_killed_upload_are_used(
    s3, place, monkeypatch, tmp_path, parts, checksum, sent
):
    """If they are of the same file: the object carries the sha256 that its upload began with."""
    if s3.name == "juicefs" and checksum != CONTENT:
        sent = [2, 3]  # it keeps no sha256
    client, key = s3.client(), place.removeprefix("s3://bucket/")
    metadata = {"sha256": hashlib.sha256(checksum).hexdigest()}
    target = {"Bucket": "bucket", "Key": key}
    own = {
        **target,
        "UploadId": client.create_multipart_upload(**target, Metadata=metadata)["UploadId"],
    }
    for number, content in enumerate(parts, 1):
        client.upload_part(**own, PartNumber=number, Body=content)
    (tmp_path / "file").write_bytes(CONTENT)
    with counted(s3, monkeypatch) as proxy:
        storage.put_file(tmp_path / "file", place)
    numbers = [re.search(r"partNumber=(\d)", request) for request in proxy.requests]
    assert sorted(int(match[1]) for match in numbers if match) == sorted(sent)
    storage.get_file(place, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == CONTENT


def test_the_parts_of_a_broken_fetch_are_used(nanio, place, monkeypatch, tmp_path):
    """As those of a killed process; `fetch` keeps them in a folder of its own for this."""
    point_at(nanio, monkeypatch)
    (tmp_path / "file").write_bytes(CONTENT)
    (tmp_path / "small").write_text("small")
    for name in ("file", "small"):
        storage.put_file(tmp_path / name, storage.join(place, name))
    files, folder = storage.list_entries(place), tmp_path / "folder"
    monkeypatch.setenv("STORAGE_RETRY_MINUTES", "0.001")

    def refuse(handler, ask):
        return busy() if f"bytes={PART}-" in handler.headers.get("Range", "") else ask()

    with counted(nanio, monkeypatch, refuse), pytest.raises(Unavailable):
        transfers.receive(files, place, folder, resumes=True)
    with counted(nanio, monkeypatch) as proxy:
        transfers.receive(files, place, folder, resumes=True)
    assert len(proxy.requests) == 2  # the size of the large one, and the part that is missing
    assert contents(folder) == {"file": CONTENT, "small": b"small"}
    (folder / "file").write_bytes(CONTENT[::-1])
    transfers.receive(files, place, folder, resumes=True)
    assert contents(folder) == {"file": CONTENT, "small": b"small"}


def test_a_killed_fetch_leaves_its_folder_to_the_same_command_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(temporary.tempfile, "tempdir", str(tmp_path))
    mine, other = (temporary.root() / f"{temporary.KEPT}{name}" for name in ("mine", "other"))
    for path in (mine, other):
        path.mkdir()
        path.with_name(f"{path.name}.lock").touch()
    assert temporary.own_folder("mine") == mine
    assert temporary.own_folder("mine") != mine  # while the first one runs
    assert mine.exists() and other.exists()
    temporary.sweep()
    assert mine.exists() and not other.exists()


def test_progress_has_bytes_rate_and_time_left(s3, place, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    (tmp_path / "file").write_bytes(CONTENT)
    storage.put_file(tmp_path / "file", place)
    storage.get_file(place, tmp_path / "back")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 6 and lines[2].count("(100%)") == lines[-1].count("(100%)") == 1
    shape = rf"{place}: [\d.]+ [KM]iB of 21\.0 MiB \(\d+%\), [\d.]+ .?i?B/s, \d+ s left"
    assert all(re.fullmatch(shape, line) for line in lines), lines


def test_a_rate_counts_only_what_was_sent_now():
    state = progress.Progress("file", 4 << 20)
    state.skip(2 << 20)
    state.add(1 << 20)
    assert state.line(2.0) == "file: 3.0 MiB of 4.0 MiB (75%), 512.0 KiB/s, 2 s left"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("STORAGE_ANONYMOUS", "yes", "STORAGE_ANONYMOUS='yes', allowed: 0 or 1"),
        ("STORAGE_ADDRESSING", "host", "STORAGE_ADDRESSING='host', allowed: auto, path, virtual"),
    ],
)
def test_settings_of_another_form_are_refused(s3, monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=words):
        storage.list_files("s3://bucket/x")


def test_anonymous_requests_carry_no_signature(nanio, monkeypatch, tmp_path):
    point_at(nanio, monkeypatch)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("STORAGE_ANONYMOUS", "1")
    headers = []

    def open_to_all(handler, ask):
        headers.append(dict(handler.headers))
        answer = busy()
        answer.status, answer.body = 200, b"<ListBucketResult></ListBucketResult>"
        answer.length = len(answer.body)
        return answer

    with counted(nanio, monkeypatch, open_to_all):
        assert storage.list_files("s3://bucket/open") == {}
    assert headers and not any("Authorization" in each for each in headers)


def test_region_and_addressing(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    for style, start in (
        ("path", "http://store.example/bucket/key?"),
        ("virtual", "http://bucket.store.example/key?"),
    ):
        monkeypatch.setenv("STORAGE_ADDRESSING", style)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.example")
        client = connection.client()
        assert client.meta.region_name == "eu-north-1"
        key = {"Bucket": "bucket", "Key": "key"}
        assert client.generate_presigned_url("get_object", Params=key).startswith(start)
