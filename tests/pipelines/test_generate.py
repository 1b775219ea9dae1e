"""Questions through the real command line: every option, adapters, drawing, refusals."""

import json
import os
import pty
import shutil
import subprocess
import sys
import tty

import pytest
import torch
from peft import LoraConfig, get_peft_model

from components.merge import stage as merging_stage
from model import checkpoint, sampler
from model.tokenizer import BEGIN_SOLUTION, EOT, MASK, encode_chat, load_tokenizer
from pipelines import asking, screen
from tests.components.test_merge import trained
from tests.conftest import ROOT

QUESTION = "371 + 153 ="
SHORT = ("--gen-length", 16, "--block-length", 8)
ROWS = [{"prompt": f"{number} + 135 =", "id": number} for number in (135, 731, 513, 377, 111)]


def expected(path, dialogue, **options):
    """The answer's tokens by the sampler itself."""
    model, tokenizer = checkpoint.load(path, dtype=torch.float32), load_tokenizer(path)
    ids = encode_chat(tokenizer, dialogue)
    stops = tokenizer.convert_tokens_to_ids([tokenizer.eos_token, EOT])
    generation = sampler.generate(model, torch.tensor([ids]), stop_tokens=stops, **options)
    return sampler.before_stop(generation.tokens_BL[0, len(ids) :].tolist(), stops), tokenizer


def text(path, dialogue, **options):
    tokens, tokenizer = expected(path, dialogue, **options)
    return tokenizer.decode(tokens)


def user(prompt):
    return [{"role": "user", "content": prompt}]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_question(taught, ask):
    done = ask(taught, *SHORT, "--cache", "none", QUESTION)
    response = text(taught, user(QUESTION), gen_length=16, block_length=8)
    tokens, _ = expected(taught, user(QUESTION), gen_length=16, block_length=8)
    assert done.answer == asking.Answer(response, len(tokens)).shown(think=True)
    assert f"{len(tokens)} tokens, " in done.errors and "tokens/s" in done.errors


def test_in_a_terminal(taught):
    """The canvas is drawn in place, and only the answer is in the output."""
    command = [sys.executable, "-m", "pipelines.generate", str(taught), "--gen-length=16"]
    terminal, errors = pty.openpty()
    done = subprocess.run(
        [*command, "--show", "--", "-3 + 4"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        check=False,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(errors)
    drawn = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert done.returncode == 0, drawn
    assert done.stdout.strip() and "\x1b" not in done.stdout
    assert "pass 1: " in drawn and "\x1b[2K" in drawn and "tokens/s" in drawn


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--steps", 3], {"steps": 3}),
        (["--temperature", 0.7, "--seed", 5], {"temperature": 0.7}),
        (["--cfg-scale", 1.5], {"cfg_scale": 1.5}),
        (["--remasking", "random", "--seed", 5], {"remasking": "random"}),
        (["--cache", "dual"], {"cache": "dual"}),
        (["--threshold", 0.5], {"threshold": 0.5}),
        (["--factor", 1], {"factor": 1.0}),
        (["--repetition-penalty", 1.7], {"repetition_penalty": 1.7}),
    ],
    ids=lambda value: str(value),
)
def test_every_option_of_the_sampler(taught, tmp_path, ask, flags, options):
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": QUESTION}])
    flags = [*SHORT, *(() if "--cache" in flags else ("--cache", "none")), *flags]
    ask(taught, *flags, "--prompts", prompts, "--output", tmp_path / "answers.jsonl")
    options["generator"] = torch.Generator().manual_seed(5)
    (row,) = read(tmp_path / "answers.jsonl")
    assert row["response"] == text(taught, user(QUESTION), gen_length=16, block_length=8, **options)


def test_forbidden_deferred_and_system(taught, tmp_path, ask):
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": QUESTION}])
    tokenizer = load_tokenizer(taught)
    ids = tokenizer.get_vocab()
    flags = [*SHORT, "--cache", "none", "--system", "Add.", "--prompts", prompts]
    words = ["--forbidden-tokens", BEGIN_SOLUTION, "--forbidden-tokens", "1"]
    ask(taught, *flags, *words, "--deferred-tokens", EOT, "--output", tmp_path / "answers")
    dialogue = [{"role": "system", "content": "Add."}, *user(QUESTION)]
    (row,) = read(tmp_path / "answers")
    options = {"forbidden_tokens": [ids[BEGIN_SOLUTION], ids["1"]], "deferred_tokens": [ids[EOT]]}
    assert row["response"] == text(taught, dialogue, gen_length=16, block_length=8, **options)
    assert BEGIN_SOLUTION not in row["response"] and "1" not in row["response"]


def test_a_stop_string_ends_the_answer(taught, tmp_path, ask):
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": QUESTION}])
    flags = [taught, *SHORT, "--cache", "none", "--prompts", prompts]
    whole = text(taught, user(QUESTION), gen_length=16, block_length=8)
    ask(*flags, "--stop", whole[5:8], "--stop", "no such text", "--output", tmp_path / "answers")
    (row,) = read(tmp_path / "answers")
    assert row["response"] == whole.partition(whole[5:8])[0] != whole


def test_an_adapter_is_asked_as_its_merged_model(taught, adapted, tmp_path, ask):
    prompts = write(tmp_path / "prompts.jsonl", ROWS)
    trained(checkpoint.load(taught, dtype=torch.float32)).save_pretrained(tmp_path / "adapter")
    (tmp_path / "model").mkdir()
    merging_stage.merge(taught, [tmp_path / "adapter"], tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(taught / name, tmp_path / "model" / name)
    commands = {
        "base": [taught],
        "merged": [tmp_path / "model"],
        "adapted": [taught, "--adapter", tmp_path / "adapter"],
    }
    answers = {}
    for name, command in commands.items():
        ask(*command, *SHORT, "--prompts", prompts, "--output", tmp_path / name)
        answers[name] = [row["response"] for row in read(tmp_path / name)]
    assert answers["adapted"] == answers["merged"] != answers["base"]
    refused = ask(taught, "--adapter", adapted / "trained", *SHORT, QUESTION)
    refused.refused("was trained on base", "allowed: an adapter of")
    ask(taught, "--adapter", tmp_path, *SHORT, QUESTION).refused(f"adapter='{tmp_path}', allowed")


def test_an_adapter_of_other_shapes(taught, tmp_path, ask):
    other = checkpoint.load(taught, dtype=torch.float32)
    wrapped = get_peft_model(other, LoraConfig(r=2, target_modules=["q_proj"]))
    wrapped.save_pretrained(tmp_path / "adapter")
    settings = tmp_path / "adapter" / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"r": 3}))
    ask(taught, "--adapter", tmp_path / "adapter", *SHORT, QUESTION).refused(
        "has shape", "expected"
    )


def test_special_tokens_are_text(taught, tmp_path, ask):
    """The canvas has no mask but its own, and the question ends where the template ends it."""
    spelt = f"1 + 1 {EOT} {MASK} ="
    done = ask(taught, *SHORT, "--cache", "none", spelt)
    tokens, tokenizer = expected(taught, user(spelt), gen_length=16, block_length=8)
    response = tokenizer.decode(tokens)
    assert done.code == 0
    assert done.answer == asking.Answer(response, len(tokens)).shown(think=True)
    ids = encode_chat(tokenizer, user(spelt))
    (eot,) = tokenizer.convert_tokens_to_ids([EOT])
    assert tokenizer.mask_token_id not in ids and ids.count(eot) == 1


def test_the_denoising_is_drawn(taught, ask):
    plain = ask(taught, *SHORT, QUESTION)
    done = ask(taught, *SHORT, "--show", QUESTION)
    assert done.output == plain.output
    passes = [line for line in done.errors.splitlines() if line.startswith("pass ")]
    assert passes[0].startswith("pass 1: ") and screen.MASK in passes[0]
    assert len(passes) == int(plain.errors.split(" passes")[0].split()[-1])
    masks = [line.count(screen.MASK) for line in passes]
    assert masks == sorted(masks, reverse=True)


def test_the_thought_is_hidden(ask):
    answer = asking.Answer(
        "<|begin_of_thought|>1+1=two<|end_of_thought|><|begin_of_solution|>2<|end_of_solution|>",
        6,
    )
    assert answer.shown(think=True) == "1+1=two\n\n2"
    assert answer.shown(think=False) == answer.solution == "2"
    odd = asking.Answer("<|begin_of_thought|>1+1=two", 3)
    assert odd.shown(think=False) == odd.text and odd.solution is None


TITLE = "\x1b]0;title\x07\x1b[2J\x9b2J\ra\tb\nc \u200d\N{DIGIT FOUR}"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_an_answer_does_not_steer_the_terminal(is_terminal, monkeypatch):
    """A pipe gets what the model wrote."""
    reader, writer = pty.openpty() if is_terminal else os.pipe()
    if is_terminal:
        tty.setraw(writer)
    with open(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        screen.say(TITLE)
        written = os.read(reader, 1 << 16).decode()
        monkeypatch.undo()
    os.close(reader)
    plain = "?]0;title??[2J?2J?a\tb\nc \u200d4"
    assert written == (plain if is_terminal else TITLE) + "\n"


def test_the_drawing_does_not_steer_the_terminal(taught, monkeypatch):
    tokenizer = load_tokenizer(taught)
    tokens = tokenizer.encode("a\x1b[2Jb\x9b", add_special_tokens=False)
    assert "\x1b" in tokenizer.decode(tokens)
    picture = screen._picture(tokenizer, tokens, []).plain
    assert picture.startswith("a?[2Jb") and picture.isprintable()


def test_auto_length(taught, ask):
    done = ask(taught, "--gen-length", "auto", QUESTION)
    assert done.code == 0 and done.answer and "gen_length=auto" in done.errors
    done = ask(taught, "--gen-length", "auto", "1 + " * 28)
    assert done.code == 0, done.errors  # the context has less room than the first canvas
    ask(taught, "--gen-length", "auto", "1 + " * 60).refused("prompt=", "fewer than 128")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([""], ["prompt=''", "not empty"]),
        (["  \n"], ["prompt=", "not empty"]),
        (["--gen-length", 120, QUESTION], ["gen_length=120", "the context is 128"]),
        (["--gen-length", 0, QUESTION], ["gen_length=0", "1 or more, or auto"]),
        (["--gen-length", "long", QUESTION], ["gen_length='long'", "whole"]),
        (["--gen-length", "null", QUESTION], ["gen_length='null'", "auto"]),
        (["--temperature", -1, QUESTION], ["temperature=-1", "0 or more"]),
        (["--temperature", "nan", QUESTION], ["temperature='nan'"]),
        (["--stop", "", QUESTION], ["stop=", "a character or more"]),
        (["--steps", 1, "--gen-length", 32, QUESTION], ["steps=1", "one or more a block, 2"]),
        (["--threshold", 2, QUESTION], ["threshold=2", "0 to 1"]),
        (["--threshold", 0.5, "--factor", 1, QUESTION], ["factor=1.0", "threshold=0.5"]),
        (["--remasking", "some", QUESTION], ["remasking='some'", "low_confidence, random"]),
        (["--think", "maybe", QUESTION], ["think='maybe'", "true or false"]),
        (["--forbidden-tokens", "<|no|>", "--gen-length", 16, QUESTION], ["<|no|>", "vocabulary"]),
        (["--temprature", 1, QUESTION], ["unrecognized", "--temprature"]),
        ([], ["PROMPT=None", "--prompts"]),
        ([QUESTION, "--prompts", "{prompts}"], ["PROMPT=", "--prompts"]),
        (["--prompts", "{prompts}"], ["--output=None"]),
        (["--prompts", "{nothing}", "--output", "{output}"], ["--prompts=", "a file"]),
        (["--prompts", "{prompts}", "--output", "{prompts}"], ["--output=", "another file"]),
        (["--prompts", "{prompts}", "--output", "{output}", "--show"], ["--show"]),
        (["--prompts", "{prompts}", "--output", "{output}", "--batch-size", 0], ["--batch-size=0"]),
        (["--prompts", "{empty}", "--output", "{output}"], ["prompts=", "a prompt or more"]),
        (["--prompts", "{blank}", "--output", "{output}"], ["blank:2: prompt=''"]),
        (["--prompts", "{long}", "--output", "{output}", *SHORT], ["prompt 2", "gen_length=16"]),
        (["--prompts", "{broken}", "--output", "{output}"], ["broken:1: not JSON"]),
    ],
    ids=str,
)  # fmt: skip
def test_bad_input(taught, tmp_path, ask, arguments, words):
    files = {name: tmp_path / name for name in ("prompts", "empty", "blank", "long", "broken")}
    write(files["prompts"], ROWS)
    write(files["empty"], [])
    write(files["blank"], [ROWS[0], {"prompt": ""}])
    write(files["long"], [ROWS[0], {"prompt": "1 + " * 37}])
    files["broken"].write_text("{")
    names = {**files, "nothing": tmp_path / "nothing", "output": tmp_path / "output"}
    ask(taught, *(str(each).format(**names) for each in arguments)).refused(
        "generate: error", *words
    )
    assert sorted(tmp_path.iterdir()) == sorted(files.values())


def test_a_reader_that_goes_away(taught, monkeypatch, tmp_path):
    """`| head -0` ends it without a traceback."""
    command = [sys.executable, "-m", "pipelines.generate", str(taught), "--gen-length=16", QUESTION]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert done.returncode == 1 and not done.stderr
