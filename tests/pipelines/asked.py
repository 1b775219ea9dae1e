"""The programs that ask, run in this process as their command lines run."""

import io
import sys
from dataclasses import dataclass

import pytest

from pipelines import chat, generate


@dataclass(frozen=True)
class Done:
    """How a program ended, and what it wrote."""

    code: int
    output: str
    errors: str

    @property
    def answer(self):
        return self.output.strip()

    def refused(self, *words):
        """Checks exit code 2, one line that holds the words, and no output."""
        assert self.code == 2 and not self.output
        (line,) = self.errors.splitlines()
        for word in words:
            assert word in line, line


def ended(program, capsys, *arguments):
    """Runs a program with its arguments."""
    capsys.readouterr()
    code = 0
    try:
        program.main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    return Done(code, *capsys.readouterr())


@pytest.fixture
def ask(capsys):
    """`python -m pipelines.generate` with its arguments."""
    return lambda *arguments: ended(generate, capsys, *arguments)


@pytest.fixture
def converse(capsys, monkeypatch):
    """`python -m pipelines.chat` with its input's lines and its arguments."""

    def run(lines, *arguments):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return ended(chat, capsys, *arguments)

    return run
