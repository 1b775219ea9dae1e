"""What documentation refers to exists: modules in docstrings and comments, functions in README."""

import ast
import importlib
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [path for folder in ("model", "components") for path in (ROOT / folder).rglob("*.py")]
DOTTED = re.compile(r"[`(]((?:model|components)(?:\.\w+)+)[`),]")
PATH = re.compile(r"[\w/]+/\w+\.py\b")
FUNCTION = re.compile(r"`(\w+)\.(?!py`|json`)(\w+)`")
README = (ROOT / "model" / "README.md").read_text()


def prose(path):
    """The docstrings and comments of a file."""
    text = path.read_text()
    strings = [
        node.value.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return "\n".join([*strings, *(t.string for t in tokens if t.type == tokenize.COMMENT)])


def exists(name):
    """Whether a dotted name is a module, a package or a name within a module."""
    path = ROOT / name.replace(".", "/")
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module, _, last = name.rpartition(".")
    return bool(module) and exists(module) and hasattr(importlib.import_module(module), last)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_that_are_named_exist(path):
    text = prose(path)
    missing = [name for name in DOTTED.findall(text) if not exists(name)]
    roots = (ROOT, ROOT / "components")
    missing += [name for name in PATH.findall(text) if not any((r / name).is_file() for r in roots)]
    assert not missing


def test_a_module_that_is_gone_is_noticed():
    assert exists("model.sampler.stream") and exists("components.storage")
    assert not exists("model.sandbox") and not exists("model.sampler.penalise")


def test_readme_names_what_exists():
    names = FUNCTION.findall(README)
    assert not [name for name in names if not exists(f"model.{'.'.join(name)}")]


def test_readme_names_every_module():
    modules = {path.stem for path in (ROOT / "model").glob("*.py")} - {"__init__"}
    assert modules <= {module for module, _ in FUNCTION.findall(README)}


def test_readmes_papers_are_those_of_the_code():
    """Each row of the table names only papers that the module's own text names."""
    for row in README.splitlines():
        functions, papers = FUNCTION.findall(row), re.findall(r"arXiv:(\d+\.\d+)", row)
        if row.startswith("| `") and papers:
            (module,) = {module for module, _ in functions}
            text = (ROOT / "model" / f"{module}.py").read_text()
            assert [paper for paper in papers if paper not in text] == [], row


def test_readmes_constants_are_those_of_the_code():
    for module, name, value in re.findall(r"\| `(\w+)\.([A-Z_]+)` \| ([\d.]+)", README):
        constant = getattr(importlib.import_module(f"model.{module}"), name)
        constant = constant["cpu"] if isinstance(constant, dict) else constant
        factor = 2**20 if "BYTES" in name else 1
        assert constant == float(value) * factor, name
