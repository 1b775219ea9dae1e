"""`make setup` with a Python that records its calls, and what the set-up says before it fetches."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from images.pip_settings import index_of_this_machine, without_password
from tests.conftest import ROOT

STUB = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in *"$FAIL"*) [ -z "$FAIL" ] || exit 3 ;; esac
if [ "$1" = bootstrap.py ]; then
    rm -rf "$2"; mkdir -p "$2/bin"; cp "$0" "$2/bin/python"
fi
"""
CPU = "https://torch.example/cpu"
HASHED = "-m pip install --quiet --no-deps --require-hashes"
HASHED += " --requirement requirements-hashes.lock"
OTHER = "https://torch.example/other"


class Checkout:
    """The files of a set-up in a directory of their own, and the stub in the place of Python."""

    def __init__(self, root):
        self.root, self.calls = root, root / "calls"
        for name in ("Makefile", "pyproject.toml", "bootstrap.py"):
            shutil.copy(ROOT / name, root)
        for lock in ROOT.glob("requirements*.lock"):
            shutil.copy(lock, root)
        (root / "stub").write_text(STUB)
        (root / "stub").chmod(0o755)
        self.ready = root / ".venv" / "ready"

    def make(self, *arguments, fail="", code=0, **environment):
        """What make has Python do; `fail` is a word of the call that fails."""
        self.calls.write_text("")
        clean = {k: v for k, v in os.environ.items() if k not in ("TORCH_INDEX", "MAKEFLAGS")}
        clean |= {"CALLS": str(self.calls), "FAIL": fail, **environment}
        command = ["make", *arguments, f"PYTHON={self.root / 'stub'}"]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, env=clean)
        assert done.returncode == code, done.stdout + done.stderr
        return self.calls.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_what_is_fetched_is_said_first(checkout):
    calls = checkout.make("setup")
    assert calls[0] == "bootstrap.py .venv"
    assert calls[1] == HASHED.replace("requirements-hashes", ".venv/packaging")
    assert calls[2].split() == ["-m", "images.torch_wheel"]
    assert calls[3] == HASHED
    assert calls[4] == "-m pip install --quiet --requirement requirements.lock"
    assert calls[5].endswith("--editable .") and len(calls) == 6
    assert checkout.ready.exists() and checkout.make("setup") == []


def test_the_first_package_is_checked_too(checkout):
    checkout.make("setup")
    pin, *hashes = (checkout.root / ".venv" / "packaging.lock").read_text().splitlines()
    assert pin.startswith("packaging==") and hashes
    assert all(line.startswith("    --hash=sha256:") for line in hashes)


def test_torch_comes_from_its_index(checkout):
    calls = checkout.make("setup", f"TORCH_INDEX={CPU}")
    assert calls[2] == f"-m images.torch_wheel --index {CPU}"
    assert calls[3].startswith(f"-m pip install --quiet --no-deps --index-url {CPU} torch==")
    assert calls[4:6] == [HASHED, "-m pip install --quiet --requirement requirements.lock"]


def test_another_index_makes_the_environment_anew(checkout):
    checkout.make("setup")
    for index in (CPU, OTHER, ""):
        assert len(checkout.make("setup", f"TORCH_INDEX={index}")) == (7 if index else 6)
        assert checkout.make("setup", f"TORCH_INDEX={index}") == []
    assert len(checkout.make("setup", TORCH_INDEX=CPU)) == 7


def test_the_index_stays_where_none_is_given(checkout):
    """Also where a lock file has changed since, and for the other targets."""
    checkout.make("setup", f"TORCH_INDEX={CPU}")
    assert checkout.make("setup") == []
    calls = checkout.make("pipeline-compile", f"TORCH_INDEX={OTHER}")
    assert [call.split()[1] for call in calls] == ["pipelines.compiler"]
    os.utime(checkout.root / "requirements.lock", (2**32, 2**32))
    assert f"-m images.torch_wheel --index {CPU}" in checkout.make("setup")


@pytest.mark.parametrize(
    "fail",
    [
        "bootstrap.py",
        "packaging.lock",
        "images.torch",
        "torch==",
        "hashes",
        "-m pip install --quiet --requirement",
    ],
)
def test_an_interrupted_setup_does_not_look_complete(checkout, fail):
    checkout.make("setup")
    calls = checkout.make("setup", f"TORCH_INDEX={CPU}", fail=fail, code=2)
    assert fail in calls[-1] and not checkout.ready.exists()
    assert len(checkout.make("setup", f"TORCH_INDEX={CPU}")) == 7
    assert checkout.ready.exists()


def test_an_audit_is_skipped_where_nobody_has_advisories(checkout):
    """pip-audit finds nothing then, as if all were well."""
    program = checkout.root / ".venv" / "audit" / "bin" / "pip-audit"
    program.parent.mkdir(parents=True)
    shutil.copy(checkout.root / "stub", program)
    question, audit = checkout.make("audit")
    assert "pypi.org" in question and audit.endswith("--requirement requirements.lock")
    assert checkout.make("audit", fail="pypi.org") == [question]
    assert checkout.make("audit", fail="requirements.lock", code=2) == [question, audit]


def index(folder, *wanted):
    """A package index with one build of the locked torch, which asks for packages."""
    version = "2.13.0+cpu" if not wanted else "2.13.0"
    page = folder / "simple" / "torch"
    page.mkdir(parents=True)
    name = f"torch-{version}-py3-none-any.whl"
    info = f"torch-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {package}\n" for package in wanted)
    with zipfile.ZipFile(page / name, "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n{needs}"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    (page / "index.html").write_text(f'<a href="{name}">{name}</a>')
    return (folder / "simple").as_uri()


def announce(*arguments):
    """The set-up's own words, from a pip that knows no other index."""
    clean = {key: v for key, v in os.environ.items() if not key.startswith("PIP_")}
    command = [sys.executable, "-m", "images.torch_wheel", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**clean, "PIP_CONFIG_FILE": os.devnull},
    )


def test_the_cpu_build_is_announced(tmp_path):
    where = index(tmp_path)
    done = announce("--index", where)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == f"setup: fetching torch 2.13.0+cpu, the CPU build, about 0.2 GB, from {where}"
    assert second.endswith("other packages, about 1 GB, from https://pypi.org/simple")


def test_a_cuda_build_names_the_way_to_the_cpu_build(tmp_path):
    done = announce("--index", index(tmp_path, "nvidia-nccl-cu13==2.29.7"))
    assert done.returncode == 0, done.stderr
    assert "torch 2.13.0, a CUDA build, about 3 GB with NVIDIA's libraries" in done.stdout
    assert "without a GPU: make setup TORCH_INDEX=https://" in done.stdout


def test_an_index_without_torch(tmp_path):
    (tmp_path / "simple").mkdir()
    done = announce("--index", (tmp_path / "simple").as_uri())
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("setup: error: pip install of torch failed: ")


def test_no_password_is_shown():
    assert without_password("https://me:secret@index.example/simple") == (
        "https://index.example/simple"
    )
    assert without_password("https://index.example/a@b") == "https://index.example/a@b"
    assert "://" in index_of_this_machine()
