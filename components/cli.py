"""The command line of every stage, built from the signature of its `run`.

A parameter annotated with a dataclass or `dict` is a JSON flag, one annotated with a Literal a
word, and any other (`artifact`) a path. From top to bottom: parse, build the configurations, check
and claim the paths, run, report to KFP.
"""

import argparse
import ast
import dataclasses
import functools
import importlib
import inspect
import json
import os
import re
import signal
import sys
import textwrap
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from components import artifact, coerce, executor, outputs
from components.failure import Failed, as_line, explain, is_full, is_of_the_system
from components.signature import configuration
from components.trainjob.config import TrainjobConfig
from model.options import check
from model.training.preemption import SIGNALS, Preempted, Stopped, leave, stoppable

FILES = (artifact.OutputFile, artifact.Parameter)
INPUTS = (artifact.Input, artifact.OptionalInput, artifact.Inputs)
SHOWN = (artifact.Output, artifact.OutputFile)
TRAINJOB = "TRAINJOB"
"""The environment variable by which a placement has a stage train on several nodes: JSON of the
fields of `components.trainjob.config`."""


class Stage(NamedTuple):
    """A stage's module, its `run`, and the annotation of each of its parameters."""

    name: str
    run: Callable[..., None]
    roles: dict[str, Any]


def start(stage: str) -> None:
    """`python -m components.STAGE`. A signal during the slow imports ends it with one line.

    Without a handler the first process of a container would ignore the signal.
    """
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in before.items() if handler in usual}
    for number in before:
        signal.signal(number, leave)
    run = importlib.import_module(f"components.{stage}.stage").run
    for number, handler in before.items():
        signal.signal(number, handler)
    main(run)


def main(run: Callable[..., None], arguments: list[str] | None = None) -> None:
    """Runs a stage; ends the process with exit code 2 on bad input.

    Exit code 1 is for failures of the machine: a full disk, a path that may not be read or written.
    A stage that is told to stop ends with 143 by SIGTERM, for the pipeline to start it again, with
    130 by SIGINT and with 129 by SIGHUP.
    """
    hints = typing.get_type_hints(run, include_extras=True)
    roles = {name: hints[name] for name in inspect.signature(run).parameters}
    stage = Stage(run.__module__.removesuffix(".stage"), run, roles)
    options = _parser(stage).parse_args(arguments)
    paths: dict[str, Any] = {}
    for name, hint in roles.items():
        if _is_path(hint):
            value = getattr(options, name)
            paths[name] = tuple(value) if hint == artifact.Inputs else value
    try:
        with stoppable():
            configs = _configs(stage, options)
            task, shown = options.executor_input, _shown(stage, paths)
            target = executor.parse(task, shown) if task else None
            if os.environ.get("RANK", "0") != "0":  # under torchrun; the first process checks
                run(**configs, **paths)
                return
            _run(stage, configs, paths)
            if target:
                executor.report(target, shown)
    except Stopped as notice:
        _end(stage, f"{notice}; the same command starts anew", notice.code, kind="stopped")
    except Preempted as notice:
        _end(stage, str(notice), notice.code, kind="stopped")
    except (FloatingPointError, Failed) as error:
        _end(stage, str(error), 1)
    except (ValueError, FileNotFoundError) as error:
        _end(stage, explain(error), 2)
    except Exception as error:
        if not is_of_the_system(error):
            raise
        places = ", ".join(str(p) for name, p in paths.items() if roles[name] not in INPUTS)
        where = f"cannot write to {places}: " if is_full(error) else ""
        _end(stage, f"{where}{explain(error)}", 1)


def _end(stage: Stage, message: str, code: int, *, kind: str = "error") -> NoReturn:
    print(f"{stage.name}: {kind}: {as_line(message)}", file=sys.stderr)
    raise SystemExit(code)


def _parser(stage: Stage) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {stage.name}",
        description=inspect.getdoc(stage.run),
        epilog="\n".join(map(_help, filter(None, map(configuration, stage.roles.values())))),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, hint in stage.roles.items():
        default = inspect.signature(stage.run).parameters[name].default
        options = _path_options(hint) if _is_path(hint) else _config_options(hint, default)
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, **options)
    parser.add_argument("--executor-input", help=argparse.SUPPRESS)
    return parser


def _path_options(hint: Any) -> dict[str, Any]:
    """Directories are required; a page or parameter is written to the null device by default."""
    role = typing.get_args(hint)[1]
    if hint == artifact.Inputs:
        text = f"{role}: directories, in their order; none unless named"
        return {"type": Path, "nargs": "+", "default": (), "metavar": "PATH", "help": text}
    if hint == artifact.OptionalInput:
        return {"type": Path, "metavar": "PATH", "help": f"{role} directory, if there is any"}
    if hint in FILES:
        text = f"{role}, not kept unless named"
        return {"type": Path, "default": Path(os.devnull), "metavar": "PATH", "help": text}
    return {"type": Path, "required": True, "metavar": "PATH", "help": f"{role} directory"}


def _config_options(hint: Any, default: Any) -> dict[str, Any]:
    if typing.get_origin(hint) is typing.Literal:
        return {"default": default, "metavar": "WORD", "help": ", ".join(typing.get_args(hint))}
    kind = configuration(hint)
    text = "JSON object" if kind is None else f"JSON object of {kind.__name__} fields, below"
    text = text if kind is hint or kind is None else f"{text}; null: the stage is off"
    return {"default": "{}", "metavar": "JSON", "help": text}


def _is_path(hint: Any) -> bool:
    return hint in (*INPUTS, artifact.Output, *FILES)


def _help(kind: type) -> str:
    lines = [f"fields of {kind.__name__}:"]
    for name, hint, default, meaning in fields(kind):
        lines.append(f"  {name}: {hint} = {default}")
        lines += textwrap.wrap(meaning, 92, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def fields(kind: type) -> list[tuple[str, str, str, str]]:
    """Name, type, default and meaning (the docstring below it) of a configuration's fields."""
    meanings = {}
    for base in reversed(kind.__mro__[:-1]):
        meanings.update(_docstrings(base))
    rows = []
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        hint = re.sub(r"[\w.]+\.(\w+)", r"\1", inspect.formatannotation(field.type))
        default = "required" if field.default is dataclasses.MISSING else repr(field.default)
        rows.append((field.name, hint, default, " ".join(meanings.get(field.name, "").split())))
    return rows


@functools.cache
def _docstrings(kind: type) -> dict[str, str]:
    """The string below each field of a class, which Python itself does not keep."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name) and isinstance(text.value, ast.Constant)
            texts[field.target.id] = str(text.value.value)
    return texts


def _configs(stage: Stage, options: argparse.Namespace) -> dict[str, Any]:
    """The configurations by name. Raises ValueError naming the field that is wrong."""
    return {
        name: _config(hint, name, getattr(options, name))
        for name, hint in stage.roles.items()
        if not _is_path(hint)
    }


def _config(kind: Any, name: str, text: str) -> Any:
    """A word, a dataclass from JSON (None where null is allowed), or any other JSON object."""
    if typing.get_origin(kind) is typing.Literal:
        return coerce.value(kind, text, name)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--{name}: not JSON: {error}") from None
    fields = configuration(kind)
    if fields is not None and (values is not None or kind is fields):
        return coerce.build(fields, values, "" if name == "config" else name)
    return coerce.value(kind, values, f"--{name}")


def _shown(stage: Stage, paths: dict[str, Any]) -> dict[str, Path]:
    """The outputs that KFP is told of."""
    return {name: path for name, path in paths.items() if stage.roles[name] in SHOWN}


def _run(stage: Stage, configs: dict[str, Any], paths: dict[str, Any]) -> None:
    """Checks the outputs, verifies the inputs, claims the outputs, and runs the stage."""
    inputs: list[Path] = []
    for name, value in paths.items():
        if stage.roles[name] in INPUTS and value is not None:
            inputs += value if isinstance(value, tuple) else [value]
    directories = {n: path for n, path in paths.items() if stage.roles[n] == artifact.Output}
    files = {name: path for name, path in paths.items() if stage.roles[name] in FILES}
    outputs.check(stage.name, directories, files, inputs)
    for path in inputs:
        artifact.verify(path)
    with outputs.claimed(stage.name, directories, files):
        if text := os.environ.get(TRAINJOB):
            _launch(stage, text, configs, paths)
        else:
            stage.run(**configs, **paths)


def _launch(stage: Stage, text: str, configs: dict[str, Any], paths: dict[str, Any]) -> None:
    """Has several nodes run the stage, whose outputs are then the same as its own would be."""
    nodes = _config(TrainjobConfig, TRAINJOB, text)
    runs = f"components.{nodes.stage}"
    check(TRAINJOB, nodes.stage, stage.name == runs, f"the stage that runs, {stage.name}")
    inputs = {n: path for n, path in paths.items() if stage.roles[n] in INPUTS and path}
    directories = {n: path for n, path in paths.items() if stage.roles[n] == artifact.Output}
    # It imports the client of Kubernetes, which takes a second: only where it is used.
    launch = importlib.import_module("components.trainjob.launch").launch
    launch(nodes, configs["config"], inputs, directories)
