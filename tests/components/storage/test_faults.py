"""Object storage that is overloaded, breaks, lies or is slow: the same content, or one line."""

import random
import re
import threading
import time

import pytest

from components import storage
from components.storage import StorageError, Unavailable, objects
from tests.components.conftest import ACCESS, SECRET, point_at
from tests.components.storage.conftest import PART
from tests.components.storage.faulty_server import (
    Faulty,
    busy,
    chances,
    flipped,
    refusal,
    reset,
    truncated,
)
from tests.ports import free_port

CONTENT = random.Random(1).randbytes(21 << 20)
KEY = "s3://bucket/faults/file"


@pytest.fixture
def sent(s3, tmp_path):
    """A file of three parts that is in the bucket."""
    (tmp_path / "file").write_bytes(CONTENT)
    storage.put_file(tmp_path / "file", KEY)
    return tmp_path / "file"


def faulty(server, monkeypatch, fault):
    proxy = Faulty(server, fault)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    return proxy


def first(count, spoil):
    """Spoils the first answers with an object's content."""
    left = [count]

    def fault(handler, ask):
        answer = ask()
        if handler.command == "GET" and "list-type" not in handler.path and left[0] > 0:
            left[0] -= 1
            return spoil(answer)
        return answer

    return fault


@pytest.mark.parametrize("seed", range(2))
def test_an_unreliable_server_gives_and_takes_the_same_content(s3, sent, monkeypatch, seed):
    """30% of the requests are refused or cut, 5% truncated; JuiceFS has no checksum for flips."""
    flips = {"flipped": 0.01} if s3.name != "juicefs" else {}
    fault = chances(random.Random(seed), busy=0.15, reset=0.15, truncated=0.05, **flips)
    with faulty(s3, monkeypatch, fault):
        place = f"s3://bucket/faults/{seed}"
        storage.put_file(sent, place)
        storage.get_file(place, sent.with_name("back"))
    assert sent.with_name("back").read_bytes() == CONTENT


@pytest.mark.parametrize("spoil", [truncated, flipped], ids=["short", "flipped"])
def test_a_spoilt_answer_is_asked_for_again(nanio, monkeypatch, tmp_path, spoil):
    point_at(nanio, monkeypatch)
    (tmp_path / "file").write_bytes(CONTENT)
    storage.put_file(tmp_path / "file", KEY)
    with faulty(nanio, monkeypatch, first(1, spoil)):
        storage.get_file(KEY, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == CONTENT


@pytest.mark.parametrize("foreign", [False, True], ids=["ours", "other"])
@pytest.mark.parametrize("size", [100, 21 << 20], ids=["one part", "three parts"])
def test_content_that_stays_wrong_is_refused(nanio, monkeypatch, tmp_path, foreign, size):
    """Also of objects of other programs, by the MD5 sums that servers give as ETags."""
    point_at(nanio, monkeypatch)
    (tmp_path / "file").write_bytes(CONTENT[:size])
    if foreign:
        nanio.client().upload_file(str(tmp_path / "file"), "bucket", "faults/file")
    else:
        storage.put_file(tmp_path / "file", KEY)
    with faulty(nanio, monkeypatch, first(1000, flipped)):
        with pytest.raises(Unavailable, match="faults/file: its content is not that of the object"):
            storage.get_file(KEY, tmp_path / "back")
        if not foreign or size == 100:  # sizes of foreign parts are tried on whole files only
            with pytest.raises(Unavailable), storage.open_file(KEY) as stream:
                stream.read()
    assert not (tmp_path / "back").exists()


def test_an_ignored_range_is_noticed(nanio, monkeypatch, tmp_path):
    point_at(nanio, monkeypatch)
    monkeypatch.setenv("STORAGE_RETRY_MINUTES", "0.02")
    (tmp_path / "file").write_bytes(CONTENT)
    storage.put_file(tmp_path / "file", KEY)

    def whole(answer):
        answer.status, answer.body, answer.length = 200, CONTENT, len(CONTENT)
        answer.headers = [pair for pair in answer.headers if pair[0].lower() != "content-range"]
        return answer

    words = "the answer holds None, not bytes 0-"
    with faulty(nanio, monkeypatch, first(1000, whole)), pytest.raises(Unavailable, match=words):
        storage.get_file(KEY, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_an_object_that_is_replaced_while_it_is_read(nanio, monkeypatch):
    point_at(nanio, monkeypatch)
    client = nanio.client()
    client.put_object(Bucket="bucket", Key="faults/file", Body=CONTENT)
    with storage.open_file(KEY) as stream:
        stream.read(10)
        client.put_object(Bucket="bucket", Key="faults/file", Body=CONTENT[::-1])
        with pytest.raises(Unavailable, match="another object took its place"):
            stream.read()


def test_a_server_that_is_away_for_seconds(s3, sent, monkeypatch):
    """It takes longer than the five tries that a request had once."""
    until = time.monotonic() + 4
    down = chances(random.Random(0), busy=0.5, reset=0.5)

    def fault(handler, ask):
        return down(handler, ask) if time.monotonic() < until else ask()

    with faulty(s3, monkeypatch, fault):
        storage.get_file(KEY, sent.with_name("back"))
    assert time.monotonic() > until and sent.with_name("back").read_bytes() == CONTENT


@pytest.mark.parametrize("fault", [busy, reset], ids=["busy", "reset"])
def test_the_setting_bounds_the_patience(nanio, monkeypatch, fault):
    point_at(nanio, monkeypatch)
    monkeypatch.setenv("STORAGE_RETRY_MINUTES", "0.05")
    started = time.monotonic()
    proxy = faulty(nanio, monkeypatch, lambda handler, ask: fault())
    with proxy, pytest.raises(Unavailable) as caught:
        storage.read_json("s3://bucket/faults/json")
    assert 1 < time.monotonic() - started < 10 and len(proxy.requests) > 3
    assert len(str(caught.value).splitlines()) == 1


def test_a_dead_port_is_waited_for(monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("STORAGE_RETRY_MINUTES", "0.05")
    started = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer"):
        storage.read_json("s3://bucket/faults/json")
    assert time.monotonic() - started > 1
    assert "is tried again for up to" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["many", "-1", "nan", "1e9"])
def test_patience_is_a_number_of_minutes(s3, monkeypatch, value):
    monkeypatch.setenv("STORAGE_RETRY_MINUTES", value)
    with pytest.raises(ValueError, match=r"STORAGE_RETRY_MINUTES=.*, allowed: minutes"):
        storage.read_json("s3://bucket/faults/json")


def test_an_answer_that_breaks_off_is_gone_on_with(nanio, monkeypatch, tmp_path):
    """Of each part of 8 MiB, half comes with the first request and half with the second."""
    point_at(nanio, monkeypatch)
    (tmp_path / "file").write_bytes(CONTENT)
    storage.put_file(tmp_path / "file", KEY)
    ranges, lock = [], threading.Lock()

    def fault(handler, ask):
        start = int(re.match(r"bytes=(\d+)", handler.headers.get("Range", "bytes=1"))[1])
        with lock:
            ranges.append(start)
        return truncated(ask()) if start % PART == 0 else ask()

    with faulty(nanio, monkeypatch, fault):
        storage.get_file(KEY, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == CONTENT
    asked = {start for start in ranges if start != 1}
    starts = range(0, len(CONTENT), PART)
    assert asked == {*starts, *(start + min(PART, len(CONTENT) - start) // 2 for start in starts)}


def test_an_answer_that_drips_is_given_up(nanio, monkeypatch, tmp_path):
    point_at(nanio, monkeypatch)
    monkeypatch.setattr(objects, "GRACE", 0.5)
    monkeypatch.setattr(objects, "SLOWEST", 1 << 20)
    (tmp_path / "file").write_bytes(CONTENT[: 1 << 20])
    storage.put_file(tmp_path / "file", KEY)

    def drip(answer):
        answer.pause = 0.05
        return answer

    with faulty(nanio, monkeypatch, first(1, drip)):
        started = time.monotonic()
        storage.get_file(KEY, tmp_path / "back")
    assert time.monotonic() - started < 30  # 1024 pauses would take 51 s
    assert (tmp_path / "back").read_bytes() == CONTENT[: 1 << 20]


def test_expired_credentials_are_read_anew(nanio, monkeypatch, tmp_path):
    """From the file in which another program renews them."""
    point_at(nanio, monkeypatch)
    storage.write_json("s3://bucket/faults/json", 1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    keys = "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n"
    file.write_text(keys.format("old", "old"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    def expire(handler, ask):
        if "old" not in handler.headers["Authorization"]:
            return ask()
        file.write_text(keys.format(ACCESS, SECRET))
        return refusal("ExpiredToken", 400)

    with faulty(nanio, monkeypatch, expire):
        assert storage.list_files("s3://bucket/faults")["json"] == 1


REFUSALS = {
    "RequestTimeTooSkewed": "the clocks of this machine and of the server differ",
    "ExpiredToken": "the credentials have expired",
    "AuthorizationHeaderMalformed": "'us-east-1' is wrong, the bucket is in eu-central-1",
    "AccessDenied": "they lack s3:ListBucket",
}


@pytest.mark.parametrize("code", REFUSALS)
def test_refusals_say_what_is_wrong(nanio, monkeypatch, code):
    point_at(nanio, monkeypatch)
    with (
        faulty(nanio, monkeypatch, lambda handler, ask: refusal(code)),
        pytest.raises(StorageError, match=REFUSALS[code]) as caught,
    ):
        storage.list_files("s3://bucket/faults")
    assert not isinstance(caught.value, Unavailable)


def test_an_upload_that_fails_leaves_no_parts(s3, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    monkeypatch.setenv("STORAGE_RETRY_MINUTES", "0.01")

    def refuse(handler, ask):
        return busy() if "partNumber=2" in handler.path else ask()

    with faulty(s3, monkeypatch, refuse), pytest.raises(Unavailable):
        storage.put_file(tmp_path / "file", "s3://bucket/faults/parts")
    left = s3.client().list_multipart_uploads(Bucket="bucket", Prefix="faults/parts")
    assert left.get("Uploads", []) == []
    listed = s3.client().list_objects_v2(Bucket="bucket", Prefix="faults/parts")
    assert listed["KeyCount"] == 0
