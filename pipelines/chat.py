"""A dialogue with a model, in a terminal or through a pipe: lines in, answers out.

    python -m pipelines.chat MODEL [--adapter DIR] [options of pipelines.generate]

Every question is asked with the whole dialogue before it, answers with their thoughts, as dialogues
are trained on. Ctrl-C stops an answer, /quit or the end of the input the program.
"""

import dataclasses
import io
import signal
import sys
from pathlib import Path

from components import coerce
from components.failure import as_line
from model.training.preemption import Stopped
from pipelines import asking, options, screen
from pipelines.asking import OpenModel
from pipelines.lookup import locate
from pipelines.options import AskOptions

PROMPT = "> "
HELP = """\
/set NAME=VALUE  changes an option, as threshold=0.9; /set alone shows all of them
/think on|off    shows the thought before a solution, or the solution alone
/reset           forgets the dialogue
/quit            ends; so does the end of the input
//TEXT           asks /TEXT
Ctrl-C           stops an answer"""


@dataclasses.dataclass
class Chat:
    """A model, how it is asked, and the dialogue so far."""

    model: OpenModel
    settings: AskOptions
    is_drawn: bool
    dialogue: list[dict[str, str]] = dataclasses.field(default_factory=list)
    turns: int = 0

    def say(self, line: str) -> bool:
        """Answers a line or follows its command; False once the program is to end.

        Raises ValueError for a command that is not understood and a dialogue without room.
        """
        if line.startswith("/") and not line.startswith("//"):
            return self._follow(line[1:])
        if line.strip():
            self._answer(line.removeprefix("/"))
        return True

    def _answer(self, question: str) -> None:
        turns = [*self.dialogue, *asking.messages(question)]
        prompt = asking.encode(
            self.model, asking.with_system(turns, self.settings.system), self.settings
        )
        with screen.drawing(self.model.tokenizer, show=self.is_drawn) as watch:
            asked = asking.ask(self.model, prompt, self.settings, number=self.turns, watch=watch)
        (answer,) = asked.answers
        self.dialogue = [*turns, {"role": "assistant", "content": answer.text}]
        self.turns += 1
        screen.say(answer.shown(think=self.settings.think))
        screen.note(str(asked))

    def _follow(self, command: str) -> bool:
        name, _, text = command.strip().partition(" ")
        commands = {"set": self._set, "think": self._think, "reset": self._reset, "help": _help}
        if name == "quit":
            return False
        if name not in commands:
            near = coerce.nearest(name, [*commands, "quit"])
            raise ValueError(f"unknown command /{name}{near}; /help names all, //{command} asks it")
        commands[name](text.strip())
        return True

    def _set(self, text: str) -> None:
        if not text:
            screen.note("\n".join(options.described(self.settings)))
            return
        name, separator, value = text.partition("=")
        if not separator:
            raise ValueError(f"/set {text}, allowed: /set NAME=VALUE, or /set alone")
        name = name.strip().replace("-", "_")
        settings = options.changed(self.settings, {name: [value.strip()]})
        asking.named_tokens(self.model, settings)
        self.settings = settings

    def _think(self, text: str) -> None:
        self.settings = options.changed(self.settings, {"think": [text]})

    def _reset(self, text: str) -> None:
        self.dialogue = []


def _help(text: str) -> None:
    screen.note(HELP)


def main(words: list[str] | None = None) -> None:
    """The command line: exit code 2 where the model or an option is refused at the start."""
    with screen.ending("chat"):
        parser = options.Parser("python -m pipelines.chat", __doc__)
        arguments = parser.parse_args(words)
        located = locate(Path(arguments.model))
        settings = options.changed(options.defaults(located.sampling), options.given(arguments))
        model = asking.open_model(located, [Path(path) for path in arguments.adapter])
        asking.named_tokens(model, settings)
        _converse(Chat(model, settings, arguments.show))


def _converse(chat: Chat) -> None:
    """Reads lines to the end; a refused line and a stopped answer end nothing."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    screen.note(f"{chat.settings}; /help names the commands")
    goes_on = True
    while goes_on:
        try:
            goes_on = chat.say(_read())
        except EOFError:
            return
        except ValueError as error:
            screen.note(f"chat: error: {as_line(str(error))}")
        except Stopped as notice:
            if notice.code != 128 + signal.SIGINT:
                raise
            screen.note("\nstopped; /quit ends the program")


def _read() -> str:
    """The next line of a terminal or a pipe. Raises EOFError at the end."""
    if sys.stdin.isatty():
        return input(PROMPT)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


if __name__ == "__main__":
    main()
