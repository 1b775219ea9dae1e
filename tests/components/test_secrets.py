"""Secrets at the edges: no line holds one, no worker gets one, and no stranger is sent one."""

import base64
import html
import json
import urllib.parse

import pytest

from components import failure
from components.download import vocabulary
from components.rewards import config, equivalence
from components.rewards.config import JudgeConfig, is_private
from components.rewards.judge import Group, Judge, JudgeError
from tests.components.rewards.judge_endpoint import Endpoint
from tests.conftest import stage
from tests.http_server import body, head

KEY = "sk-4f9a1c7e2b6d8035"
SUM = Group("What is 2 + 2?", ["4", "5"])


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, f'{{"error": {{"message": "wrong key: Bearer {KEY}"}}}}'),
        (500, f"<html>Authorization: Bearer {KEY}</html>"),
        (200, f'{{"choices": "{KEY}"}}'),
        (200, f'{{"choices": [{{"message": {{"content": "{KEY}"}}}}]}}'),
        (200, f"{'x' * 88}{KEY}"),
        (200, f'{{"choices": [{{"message": {{"content": "{"x" * 88}{KEY}"}}}}]}}'),
        (400, f"{'x' * 250}{KEY} and {KEY}"),
    ],
)
def test_a_judge_that_sends_the_key_back(monkeypatch, status, body):
    """Also where the message is cut off in the middle of it."""
    monkeypatch.setenv("JUDGE_API_KEY", f"{KEY}\n")
    with Endpoint(lambda number, _: (status, body.encode())) as endpoint:
        judge = Judge(JudgeConfig(url=endpoint.url, model="m", retries=0, max_failed_share=0.0))
        with pytest.raises(JudgeError) as error:
            judge.score_groups([SUM])
        assert endpoint.keys == [f"Bearer {KEY}"]
    assert KEY[:6] not in str(error.value), error.value


class Redirecting(Endpoint):
    """Sends whoever asks to another address."""

    target = ""

    def answer(self, handler):
        self.keys.append(handler.headers["Authorization"])
        body(handler)
        head(handler, 307, 0, Location=self.target)


def test_a_redirect_to_another_host_gets_no_key(monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    with Endpoint(lambda *_: (500, b"{}")) as other, Redirecting(None) as endpoint:
        endpoint.target = f"{other.url}/chat/completions".replace("127.0.0.1", "localhost")
        judge = Judge(JudgeConfig(url=endpoint.url, model="m", retries=0, max_failed_share=0.0))
        with pytest.raises(JudgeError):
            judge.score_groups([SUM])
        assert (endpoint.keys, other.keys) == ([f"Bearer {KEY}"], [None])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"Bearer {KEY}", "Bearer ..."),
        (f"two\nlines of\t{KEY}", "two lines of ..."),
        ("https://name:password@host/path is wrong", "https://...@host/path is wrong"),
        ("https://host/v1?api_key=abc&model=m", "https://host/v1?api_key=...&model=m"),
        ("s3://b/k?X-Amz-Signature=0f&X-Amz-Date=1", "s3://b/k?X-Amz-Signature=...&X-Amz-Date=1"),
        ("http://me:pa@ss@host/path", "http://...@host/path"),
        ("Authorization: Basic bWU6cGFzcw==", "Authorization: Basic ..."),
        ("Basic authentication, a Bearer of news", "Basic authentication, a Bearer of news"),
        ("http://host/?pwd=abc&auth=abc", "http://host/?pwd=...&auth=..."),
        ("a\x1b[2Jb\x07\u202ec", "a?[2Jb??c"),
        ("x" * 5000, "x" * 4000 + "..."),
        ("s3://bucket/a@b and b@c", "s3://bucket/a@b and b@c"),
    ],
)
def test_a_line_has_no_secret_and_no_control_sign(monkeypatch, text, line):
    monkeypatch.setenv("SOME_API_KEY", KEY)
    assert failure.as_line(text) == line


ODD = "a/b+c='d\"\\\u00e9 \u00e9/0123456789"


@pytest.mark.parametrize(
    "spell",
    [
        repr,
        json.dumps,
        html.escape,
        urllib.parse.quote,
        urllib.parse.quote_plus,
        lambda value: urllib.parse.quote(value, safe=""),
        lambda value: f"Basic {base64.b64encode(value.encode()).decode()}",
    ],
)
def test_a_secret_in_another_spelling(monkeypatch, spell):
    """As servers and libraries quote what they were sent."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ODD)
    line = failure.as_line(f"error: {spell(ODD)}")
    assert line.startswith("error: ") and "..." in line
    assert "0123456789" not in line and base64.b64encode(ODD.encode()).decode()[:8] not in line


def test_the_command_line_prints_no_secret(monkeypatch, tmp_path):
    """Wherever in the input it stands."""
    monkeypatch.setenv("HF_TOKEN", KEY)
    values = {"steps": KEY, "checkpoint_uri": f"s3://{KEY}@bucket"}
    paths = {name: tmp_path / name for name in ("base", "dataset", "trained", "metrics")}
    done = stage("pretrain", values, check=False, **paths)
    assert done.returncode == 2 and "steps='...'" in done.stderr
    assert KEY not in done.stdout + done.stderr


PRIVATE = ["localhost", "127.0.0.1", "127.8.9.1", "[::1]", "10.0.0.7", "172.16.3.4", "192.168.1.2"]
PRIVATE += ["[fd00::1]", "judge", "ollama.default.svc", "ollama.default.svc.cluster.local"]
PRIVATE += ["gpu-box.local", "judge.corp.internal", "judge.localhost", "JUDGE.llada.SVC", "a.svc."]
PUBLIC = ["example.com", "8.8.8.8", "[2001:4860:4860::8888]", "169.254.169.254", "134744072"]
PUBLIC += [
    "0x08080808",
    "svc.example.com",
    "localhost.example.com",
    "172.32.0.1",
    "127.0.0.1.nip.io",
]


@pytest.mark.parametrize("host", PRIVATE)
def test_http_to_a_private_host(host):
    assert is_private(host)
    assert JudgeConfig(url=f"http://{host}:8000/v1", model="m").url


@pytest.mark.parametrize("host", PUBLIC)
def test_http_to_a_public_host_is_refused(host):
    assert not is_private(host)
    with pytest.raises(ValueError, match=r"judge.url=.*allowed: https://, or http:// for a loop"):
        JudgeConfig(url=f"http://{host}/v1", model="m")
    assert JudgeConfig(url=f"https://{host}/v1", model="m")
    assert JudgeConfig(url=f"http://{host}/v1", model="m", allow_http=True)


@pytest.mark.parametrize(
    "url", [f"https://h/v1?key={KEY}", f"https://h/v1#{KEY}", f"https://me:{KEY}@h/v1"]
)
def test_a_key_in_a_url_is_refused_and_not_shown(url):
    with pytest.raises(ValueError, match="allowed: a URL") as error:
        config.check_url("judge.url", url, allow_http=True)
    assert KEY not in str(error.value)


def test_the_worker_that_parses_answers_has_no_environment(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    comparison = equivalence.Equivalence()
    try:
        assert comparison("1/2", "0.5")
        with open(f"/proc/{comparison._worker.pid}/environ") as file:
            names = {pair.partition("=")[0] for pair in file.read().split("\0") if pair}
    finally:
        comparison.close()
    assert names == {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}


def test_the_process_that_tries_a_tokenizer_has_no_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    (tmp_path / "probe.py").write_text("import os, sys\nsys.exit(' '.join(os.environ))")
    monkeypatch.setattr(vocabulary, "PROBE", tmp_path / "probe.py")
    with pytest.raises(ValueError, match="no tokenizer can be made of it: ") as error:
        vocabulary._probe(tmp_path / "tokenizer.json")
    names = set(str(error.value).rpartition(": ")[2].split())
    assert names - {"LC_CTYPE"} == {"OMP_NUM_THREADS", "RAYON_NUM_THREADS"}
