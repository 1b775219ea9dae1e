"""Dialogues through the real command line: turns, commands, refusals and signals."""

import fcntl
import signal
import subprocess
import sys

import pytest
import torch

from model import checkpoint, sampler
from model.tokenizer import EOT, encode_chat, load_tokenizer
from pipelines import asking
from tests.conftest import ROOT

SHORT = ("--gen-length", 16, "--block-length", 8, "--cache", "none")
SMALLEST_PIPE = 4096


class Dialogue:
    """What the model says in each turn, by the sampler itself."""

    def __init__(self, path, system=None):
        self.model, self.tokenizer = (
            checkpoint.load(path, dtype=torch.float32),
            load_tokenizer(path),
        )
        self.messages = [] if system is None else [{"role": "system", "content": system}]
        self.stops = self.tokenizer.convert_tokens_to_ids([self.tokenizer.eos_token, EOT])

    def ask(self, question, **options):
        self.messages.append({"role": "user", "content": question})
        ids = encode_chat(self.tokenizer, self.messages)
        options = {"gen_length": 16, "block_length": 8, **options}
        generation = sampler.generate(
            self.model, torch.tensor([ids]), stop_tokens=self.stops, **options
        )
        tokens = sampler.before_stop(generation.tokens_BL[0, len(ids) :].tolist(), self.stops)
        response = self.tokenizer.decode(tokens)
        self.messages.append({"role": "assistant", "content": response})
        return asking.Answer(response, len(tokens)).shown(think=True)


def test_turns_are_asked_with_those_before(taught, converse):
    done = converse(["1 + 1 =", "", "3 + 5 =", "7 + 7 ="], taught, *SHORT)
    dialogue = Dialogue(taught)
    assert done.code == 0
    assert done.output == "".join(
        f"{dialogue.ask(f'{q} =')}\n" for q in ("1 + 1", "3 + 5", "7 + 7")
    )
    assert done.errors.count("tokens/s") == 3


def test_reset_forgets(taught, converse):
    done = converse(["1 + 1 =", "/reset", "3 + 5 =", "/quit", "7 + 7 ="], taught, *SHORT)
    answers = [Dialogue(taught).ask(question) for question in ("1 + 1 =", "3 + 5 =")]
    assert done.output == "".join(f"{answer}\n" for answer in answers)


def test_options_change_on_the_way(taught, converse):
    lines = ["/set gen_length=8", "/set system=Add.", "/set steps=4", "1 + 1 ="]
    done = converse(lines, taught, *SHORT)
    assert done.output == f"{Dialogue(taught, 'Add.').ask('1 + 1 =', gen_length=8, steps=4)}\n"
    done = converse(["/set"], taught, *SHORT)
    assert "gen_length=16  New tokens" in done.errors and "threshold=null" in done.errors


def test_a_question_may_begin_with_a_slash(taught, converse):
    done = converse(["//set is text"], taught, *SHORT)
    assert done.output == f"{Dialogue(taught).ask('/set is text')}\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/set threshhold=0.9", ["unknown option threshhold (did you mean threshold?)"]),
        ("/set threshold=2", ["threshold=2", "0 to 1"]),
        ("/set temperature=-1", ["temperature=-1", "0 or more"]),
        ("/set stop=", ["stop=", "a character or more"]),
        ("/set forbidden_tokens=<|no|>", ["<|no|>", "vocabulary"]),
        ("/set threshold", ["/set NAME=VALUE"]),
        ("/think perhaps", ["think='perhaps'"]),
        ("/rest", ["unknown command /rest (did you mean reset?)"]),
        ("1 + " * 26, ["gen_length=16", "the context is 128"]),
    ],
)
def test_a_refusal_ends_nothing(taught, converse, line, words):
    """One line says why, and the dialogue goes on as if nothing had been said."""
    done = converse(["1 + 1 =", line, "3 + 5 ="], taught, *SHORT)
    dialogue = Dialogue(taught)
    assert done.code == 0
    assert done.output == "".join(f"{dialogue.ask(q)}\n" for q in ("1 + 1 =", "3 + 5 ="))
    (refusal,) = [text for text in done.errors.splitlines() if "error" in text]
    for word in words:
        assert word in refusal


def test_the_thought_is_hidden_and_stays_in_the_dialogue(taught, converse, monkeypatch):
    """The answers that come back to the model are whole, whatever was shown of them."""
    asked = []
    ordinary = asking.encode
    monkeypatch.setattr(
        asking,
        "encode",
        lambda m, dialogue, o: asked.append(list(dialogue)) or ordinary(m, dialogue, o),
    )
    options = ("--gen-length", 32, "--block-length", 8)
    done = converse(["/think off", "371 + 153 =", "1 + 1 ="], taught, *options)
    answer = asking.Answer(asked[1][1]["content"], 0)
    assert done.output.splitlines()[0] == answer.shown(think=False).splitlines()[0]
    assert [message["role"] for message in asked[1]] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gen-length", -1], ["gen_length=-1"]),
        (["--stop", ""], ["stop="]),
        (["--adapter", "nowhere"], ["adapter='nowhere'"]),
        (["--forbidden-tokens", "<|no|>"], ["<|no|>"]),
    ],
)
def test_refused_at_the_start(taught, converse, arguments, words):
    converse(["1 + 1 ="], taught, *arguments).refused("chat: error", *words)


def test_no_model(tmp_path, converse):
    converse(["1 + 1 ="], tmp_path / "nothing").refused("MODEL=", "no such directory")


class Program:
    """`python -m pipelines.chat`, whose drawing fills a small pipe and so waits to be read."""

    def __init__(self, model):
        command = [sys.executable, "-m", "pipelines.chat", str(model), "--show", "--gen-length=96"]
        command += ["--threshold=null", "--cache=none", "--block-length=96"]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.process = subprocess.Popen(command, cwd=ROOT, text=True, bufsize=1, **pipes)
        fcntl.fcntl(self.process.stderr, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)

    def until(self, word):
        """Reads on until a line holds the word."""
        lines = []
        while word not in "".join(lines):
            line = self.process.stderr.readline()
            assert line, f"it ended: {lines}"
            lines.append(line)
        return lines


@pytest.fixture
def program(taught):
    running = Program(taught)
    yield running
    running.process.kill()
    running.process.communicate()


def test_ctrl_c_stops_an_answer(program, taught):
    """The next question is asked as if there had been none before."""
    program.until("/help names")
    program.process.stdin.write("1 + 1 =\n")
    program.until("pass 3:")
    program.process.send_signal(signal.SIGINT)
    lines = program.until("stopped; /quit ends the program")
    assert not any("tokens/s" in line for line in lines)
    program.process.stdin.write("/set gen_length=8\n/set steps=1\n3 + 5 =\n")
    program.until("tokens/s")
    output, errors = program.process.communicate("/quit\n")
    expected = Dialogue(taught).ask("3 + 5 =", gen_length=8, block_length=96, steps=1)
    assert output == f"{expected}\n"
    assert "Traceback" not in errors and program.process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_it(program, number):
    program.until("/help names")
    program.process.stdin.write("1 + 1 =\n")
    program.until("pass 3:")
    program.process.send_signal(number)
    output, errors = program.process.communicate()
    assert program.process.returncode == 128 + number and not output
    assert errors.splitlines()[-1] == f"chat: stopped: by {number.name}"
