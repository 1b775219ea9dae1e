"""Storage that refuses, is missing or is wrongly set up: one line that names place and reason."""

import pytest

from components import storage
from components.storage import StorageError, connection, directories
from tests.ports import free_port

OPERATIONS = {
    "read": lambda place, folder: storage.read_json(storage.join(place, "x.json")),
    "write": lambda place, folder: storage.write_json(storage.join(place, "x.json"), 1),
    "list": lambda place, folder: storage.list_files(place),
    "exists": lambda place, folder: storage.exists(place),
    "put file": lambda place, folder: storage.put_file(folder / "large", place + "/x"),
    "get file": lambda place, folder: storage.get_file(place + "/x", folder / "new"),
    "put": lambda place, folder: directories.put_directory(folder, place),
    "get": lambda place, folder: directories.get_directory(place, folder / "new"),
    "delete": lambda place, folder: storage.delete(place),
}


def refused(operation, place, folder, *words):
    with pytest.raises(StorageError) as caught:
        OPERATIONS[operation](place, folder)
    for word in (place, *words):
        assert word in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (folder / "new").exists()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_wrong_secret(s3, folder, monkeypatch, operation):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused(operation, "s3://bucket/x", folder, "refused, AWS_SECRET_ACCESS_KEY is wrong")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_unknown_access_key(s3, folder, monkeypatch, operation):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    refused(operation, "s3://bucket/x", folder, "refused")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_missing_bucket(s3, folder, operation):
    refused(operation, "s3://nowhere/x", folder, "no such bucket")


def test_missing_key(s3, tmp_path):
    with pytest.raises(FileNotFoundError, match="s3://bucket/nothing: no such object"):
        storage.get_file("s3://bucket/nothing", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("operation", OPERATIONS)
def test_endpoint_down(folder, monkeypatch, operation):
    endpoint = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    refused(operation, "s3://bucket/x", folder, f"endpoint {endpoint}", "does not answer")


def test_no_credentials(folder, monkeypatch, tmp_path):
    for name in connection.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    refused("read", "s3://bucket/x", folder, "no credentials; set AWS_ACCESS_KEY_ID")


@pytest.mark.parametrize(
    ("location", "words"),
    [("gs://bucket/x", "unknown scheme"), ("s3:///x", "names no bucket")],
)
def test_bad_location(location, words):
    with pytest.raises(StorageError, match=words):
        storage.exists(location)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AWS_MAX_ATTEMPTS", "many", "AWS_MAX_ATTEMPTS='many', allowed: a whole number"),
        ("AWS_MAX_ATTEMPTS", "0", "AWS_MAX_ATTEMPTS='0', allowed: a whole number, 1 or more"),
        ("AWS_METADATA_SERVICE_TIMEOUT", "x", "AWS_METADATA_SERVICE_TIMEOUT='x'"),
        ("AWS_DEFAULT_REGION", "eu west", "AWS_DEFAULT_REGION='eu west'"),
        ("AWS_ENDPOINT_URL_S3", "http:", "AWS_ENDPOINT_URL_S3='http:'"),
        ("AWS_ENDPOINT_URL", "http://host:port", "AWS_ENDPOINT_URL='http://host:port'"),
        ("AWS_PROFILE", "nobody", "AWS_PROFILE='nobody'"),
        ("AWS_SECRET_ACCESS_KEY", "a b", "AWS_SECRET_ACCESS_KEY holds white space"),
        ("HTTP_PROXY", "garbage", "(HTTP_PROXY)"),
    ],
)
def test_values_of_a_wrong_form_are_named(monkeypatch, folder, name, value, words):
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_MAX_ATTEMPTS": "1"}
    place = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_DEFAULT_REGION": "us-east-1"}
    for key, given in {**keys, **place, name: value}.items():
        monkeypatch.setenv(key, given)
    connection.forget()
    refused("read", "s3://bucket/x", folder, words)


def test_bad_endpoint(monkeypatch, folder):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no endpoint")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    refused("read", "s3://bucket/x", folder, "AWS_ENDPOINT_URL='no endpoint'")
