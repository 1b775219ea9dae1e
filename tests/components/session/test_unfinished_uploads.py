"""Parts of uploads that killed processes left in a place of checkpoints."""

import random

from tests.components.conftest import point_at
from tests.components.session.test_checkpoints import checkpoints, save
from tests.components.storage.faulty_server import Faulty, refusal


def test_parts_of_a_killed_upload_are_removed(s3, tmp_path):
    """A person's own upload in the same place stays."""
    place = f"s3://bucket/parts-{random.getrandbits(32):x}"
    kept, client = checkpoints(place), s3.client()
    prefix = kept.location.removeprefix("s3://bucket/")
    for name in ("step-00000001/0123abcd/state-00001.safetensors", "mine/large"):
        upload = client.create_multipart_upload(Bucket="bucket", Key=f"{prefix}/{name}")
        own = {"UploadId": upload["UploadId"], "PartNumber": 1, "Body": b"x" * (5 << 20)}
        client.upload_part(Bucket="bucket", Key=f"{prefix}/{name}", **own)
    save(kept, 1)
    left = client.list_multipart_uploads(Bucket="bucket", Prefix=f"{prefix}/")["Uploads"]
    assert [each["Key"] for each in left] == [f"{prefix}/mine/large"]
    client.abort_multipart_upload(Bucket="bucket", Key=left[0]["Key"], UploadId=left[0]["UploadId"])


def test_parts_that_may_not_be_removed_are_named(nanio, monkeypatch, capsys):
    """The state is saved nevertheless."""
    place = f"s3://bucket/parts-{random.getrandbits(32):x}"
    point_at(nanio, monkeypatch)
    kept, client = checkpoints(place), nanio.client()
    key = f"{kept.location.removeprefix('s3://bucket/')}/step-00000001/0123abcd/state-00001"
    upload = client.create_multipart_upload(Bucket="bucket", Key=key)["UploadId"]
    part = {"UploadId": upload, "PartNumber": 1, "Body": b"x" * (5 << 20)}
    client.upload_part(Bucket="bucket", Key=key, **part)

    def refuse(handler, ask):
        removes = handler.command == "DELETE" and "uploadId" in handler.path
        return refusal("AccessDenied") if removes else ask()

    with Faulty(nanio, refuse) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        assert save(kept, 1)
    assert "they lack s3:AbortMultipartUpload" in capsys.readouterr().out
    client.abort_multipart_upload(Bucket="bucket", Key=key, UploadId=upload)
