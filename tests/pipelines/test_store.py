"""One file of settings for KFP's launcher and for the stages."""

import subprocess
import sys
import warnings

import kubernetes_validate
import pytest
import yaml

from pipelines import placement, store
from tests.conftest import ROOT

GOOD = """
# ours
root=s3://bucket/artifacts
region=eu-west-1
access-key=AK
secret-key=SK=/+
"""
EXAMPLE = ROOT / "manifests" / "secrets" / "object-store.env.example"


def written(text):
    launcher, secret = store.documents(store.read(text), "llada")
    provider = yaml.safe_load(launcher["data"]["providers"])["s3"]["default"]
    return launcher, provider, secret["stringData"]


def test_aws():
    launcher, provider, secret = written(GOOD)
    assert launcher["data"]["defaultPipelineRoot"] == "s3://bucket/artifacts"
    assert provider["endpoint"] == "s3.amazonaws.com" and provider["disableSSL"] is False
    assert secret == {"access-key": "AK", "secret-key": "SK=/+", "region": "eu-west-1"}


def test_both_are_told_the_same():
    """Host and protocol are apart for the launcher, an address for the stages."""
    text = GOOD + "endpoint=http://seaweedfs.kubeflow:8333\npath-style=false\n"
    _, provider, secret = written(text)
    assert provider["endpoint"] == "seaweedfs.kubeflow:8333" and provider["disableSSL"] is True
    assert provider["forcePathStyle"] is False and provider["region"] == secret["region"]
    assert secret["endpoint"] == "http://seaweedfs.kubeflow:8333"
    reference = provider["credentials"]["secretRef"]
    assert reference["secretName"] == store.SECRET
    assert {reference["accessKeyKey"], reference["secretKeyKey"]} <= set(secret)
    assert {*secret, "session-token"} == set(placement.SECRETS[store.SECRET])


def test_a_session_token_comes_from_the_environment_of_every_stage():
    """KFP's launcher, which takes no token from a secret, runs in their containers."""
    _, provider, secret = written(GOOD + "session-token=ST\n")
    assert provider["credentials"] == {"fromEnv": True} and secret["session-token"] == "ST"
    assert provider["region"] == secret["region"] == "eu-west-1"
    assert placement.SECRETS[store.SECRET]["session-token"] == "AWS_SESSION_TOKEN"
    for profile in placement.PROFILES.values():
        assert all(store.SECRET in stage.secrets for stage in profile.values())


def test_without_keys_the_pods_have_an_identity():
    text = GOOD.replace("access-key=AK\n", "").replace("secret-key=SK=/+\n", "")
    _, provider, secret = written(text)
    assert provider["credentials"] == {"fromEnv": True} and secret == {"region": "eu-west-1"}


def test_schemas():
    for document in store.documents(store.read(GOOD), "llada"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kubernetes_validate.validate(document, "1.34", strict=True)


def test_the_example_has_every_setting():
    keys = [line.partition("=")[0] for line in EXAMPLE.read_text().splitlines()]
    assert set(keys) == set(store.KEYS) and EXAMPLE.read_text().count("=\n") == len(keys)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("region=eu-west-1", "region="), "region=None"),
        (GOOD.replace("root=s3:", "root=gs:"), "root='gs://bucket/artifacts', allowed: s3://"),
        (GOOD + "endpoint=seaweedfs:8333\n", "endpoint='seaweedfs:8333'"),
        (GOOD + "path-style=yes\n", "path-style='yes', allowed: true or false"),
        (GOOD + "bucket=b\n", "line 7='bucket'"),
        (GOOD.replace("access-key=AK", ""), "keys=['secret-key'], allowed: both keys"),
        ("root=s3://b/c\nregion=a\nsession-token=x\n", "keys=['session-token'], allowed: both"),
    ],
)
def test_bad_settings(tmp_path, text, words):
    """One line, and neither document; no key is repeated."""
    file = tmp_path / "store.env"
    file.write_text(text)
    command = [sys.executable, "-m", "pipelines.store", str(file), "--namespace", "llada"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert words in line and "SK=" not in line


def test_documents_are_printed_for_kubectl(tmp_path):
    file = tmp_path / "store.env"
    file.write_text(GOOD)
    command = [sys.executable, "-m", "pipelines.store", str(file), "--namespace", "llada"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert list(yaml.safe_load_all(done.stdout)) == store.documents(store.read(GOOD), "llada")
