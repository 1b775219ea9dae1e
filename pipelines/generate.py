"""Asks a model one question, or a file of them.

    python -m pipelines.generate MODEL "371 + 153 ="
    python -m pipelines.generate MODEL --adapter DIR --show --gen-length auto "371 + 153 ="
    python -m pipelines.generate MODEL --prompts FILE.jsonl --output FILE.jsonl

The answer goes to the output, its tokens, passes and tokens a second beside it. A file is answered
in batches; the same command given again goes on where it was stopped.
"""

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path

from tqdm import tqdm

from model.options import check
from pipelines import answers, asking, options, screen
from pipelines.asking import OpenModel
from pipelines.lookup import Located, locate
from pipelines.options import AskOptions

BATCHES = 4  # whose answers are written at once: rows that end early make room within them


def main(words: list[str] | None = None) -> None:
    """The command line behind `make ask`: exit code 2 for bad input, before anything is written."""
    with screen.ending("generate"):
        _run(_parser().parse_intermixed_args(words))


def _parser() -> options.Parser:
    parser = options.Parser("python -m pipelines.generate", __doc__)
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="what the model is asked")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="JSON lines to ask instead")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON lines of their answers")
    parser.add_argument("--batch-size", type=int, default=16, help="prompts asked together [16]")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    is_file = arguments.prompts is not None
    is_one = is_file != (arguments.prompt is not None)
    check("PROMPT", arguments.prompt, is_one, "a text, or --prompts FILE in its place")
    located = locate(Path(arguments.model))
    settings = options.changed(options.defaults(located.sampling), options.given(arguments))
    (_ask_file if is_file else _ask_one)(arguments, located, settings)


def _open(arguments: argparse.Namespace, located: Located, settings: AskOptions) -> OpenModel:
    model = asking.open_model(located, [Path(path) for path in arguments.adapter])
    asking.named_tokens(model, settings)
    return model


def _ask_one(arguments: argparse.Namespace, located: Located, settings: AskOptions) -> None:
    check("--output", str(arguments.output), arguments.output is None, "beside --prompts alone")
    dialogue = asking.with_system(asking.messages(arguments.prompt), settings.system)
    model = _open(arguments, located, settings)
    prompt = asking.encode(model, dialogue, settings)
    with screen.drawing(model.tokenizer, show=arguments.show) as watch:
        asked = asking.ask(model, prompt, settings, watch=watch)
    screen.say(asked.answers[0].shown(think=settings.think))
    screen.note(f"\n{asked} ({settings})")


def _ask_file(arguments: argparse.Namespace, located: Located, settings: AskOptions) -> None:
    output, size = arguments.output, arguments.batch_size
    _check_file(arguments)
    prompts = answers.read_prompts(arguments.prompts)
    rows = [row for row, _ in prompts]
    model = _open(arguments, located, settings)
    encoded = [
        _encode(model, number, asking.with_system(dialogue, settings.system), settings)
        for number, (_, dialogue) in enumerate(prompts, 1)
    ]
    fingerprint = _fingerprint(model, settings)
    done, end = answers.finished(output, rows, fingerprint)
    passes, tokens, seconds = 0, 0, 0.0
    with answers.appending(output, end) as stream, _bar(len(rows), done) as bar:
        for start in range(done, len(rows), size * BATCHES):
            part = slice(start, start + size * BATCHES)
            asked = asking.ask_all(model, encoded[part], settings, number=start, batch_size=size)
            answers.write(stream, rows[part], asked, fingerprint)
            bar.update(len(asked.answers))
            passes, tokens = passes + asked.passes, tokens + asked.tokens
            seconds += asked.seconds
    before = f", {done} of them before" if done else ""
    screen.note(f"{output}: {len(rows)} answers{before}; {asking.figures(tokens, passes, seconds)}")


def _check_file(arguments: argparse.Namespace) -> None:
    output, size = arguments.output, arguments.batch_size
    check("--output", output, output is not None, "a file for the answers")
    check("--show", True, not arguments.show, "beside one PROMPT")
    check("--batch-size", size, 1 <= size <= 4096, "1 to 4096")
    is_file = arguments.prompts.is_file()
    check("--prompts", str(arguments.prompts), is_file, "a file of JSON lines")
    is_new = output.resolve() != arguments.prompts.resolve()
    is_new = is_new and output.parent.is_dir() and not output.is_dir()
    check(
        "--output",
        str(output),
        is_new,
        "another file than the prompts, in a directory that is there",
    )


def _encode(
    model: OpenModel, number: int, dialogue: asking.Messages, settings: AskOptions
) -> list[int]:
    try:
        return asking.encode(model, dialogue, settings)
    except ValueError as error:
        raise ValueError(f"prompt {number} of the file: {error}") from None


def _fingerprint(model: OpenModel, settings: AskOptions) -> str:
    """Of all that decides an answer: how many are sampled at a time does not."""
    facts = [model.fingerprint, dataclasses.asdict(settings)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _bar(total: int, done: int) -> tqdm:
    return tqdm(total=total, initial=done, desc="generate", unit="prompt", disable=None)


if __name__ == "__main__":
    main()
