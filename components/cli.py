"""The command line of every stage, built from the signature of its `run`.

A parameter annotated with a dataclass or `dict` is a JSON flag, one annotated with a Literal a
word, and any other (`artifact`) a path. From top to bottom: parse, build the configurations, check
and claim the paths, run, report to KFP.
"""

import argparse
import ast
import dataclasses
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

from components import artifact, coerce, outputs
from components.failure import Failed, explain, is_full, is_of_the_system
from components.trainjob.config import TrainjobConfig
from model.options import check
from model.training.preemption import SIGNALS, Preempted, Stopped, leave, stoppable

FILES = (artifact.OutputFile, artifact.Parameter)
INPUTS = (artifact.Input, artifact.Inputs)
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
            if os.environ.get("RANK", "0") != "0":  # under torchrun; the first process checks
                run(**configs, **paths)
                return
            _run(stage, configs, paths)
            if options.executor_input:
                _report(stage, paths, json.loads(options.executor_input))
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
    print(f"{stage.name}: {kind}: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def _parser(stage: Stage) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {stage.name}",
        description=inspect.getdoc(stage.run),
        epilog="\n".join(_help(hint) for hint in stage.roles.values() if _is_config(hint)),
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
    if hint in FILES:
        text = f"{role}, not kept unless named"
        return {"type": Path, "default": Path(os.devnull), "metavar": "PATH", "help": text}
    return {"type": Path, "required": True, "metavar": "PATH", "help": f"{role} directory"}


def _config_options(hint: Any, default: Any) -> dict[str, Any]:
    if typing.get_origin(hint) is typing.Literal:
        return {"default": default, "metavar": "WORD", "help": ", ".join(typing.get_args(hint))}
    text = "JSON object" if hint is dict else f"JSON object of {hint.__name__} fields, below"
    return {"default": "{}", "metavar": "JSON", "help": text}


def _is_config(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


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


def _config(kind: type, name: str, text: str) -> Any:
    """A word, a dataclass from JSON, or a JSON object that the stage itself builds from."""
    if typing.get_origin(kind) is typing.Literal:
        return coerce.value(kind, text, name)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--{name}: not JSON: {error}") from None
    if _is_config(kind):
        return coerce.build(kind, values, "" if name == "config" else name)
    return coerce.value(kind, values, f"--{name}")


def _run(stage: Stage, configs: dict[str, Any], paths: dict[str, Any]) -> None:
    """Checks the outputs, verifies the inputs, claims the outputs, and runs the stage."""
    inputs = [path for name, path in paths.items() if stage.roles[name] == artifact.Input]
    for name, several in paths.items():
        inputs += several if stage.roles[name] == artifact.Inputs else ()
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


def _report(stage: Stage, paths: dict[str, Any], executor_input: dict[str, Any]) -> None:
    """Writes KFP's executor output: every output artifact, with figures of its record."""
    target = executor_input["outputs"]
    artifacts = {}
    for name, path in paths.items():
        if stage.roles[name] not in SHOWN:
            continue
        (declared,) = target["artifacts"][name]["artifacts"]
        if path.is_dir():
            is_metrics = declared.get("type", {}).get("schemaTitle") == "system.Metrics"
            own = _metadata(artifact.read(path), is_metrics)
            declared["metadata"] = {**declared.get("metadata", {}), **own}
        artifacts[name] = {"artifacts": [declared]}
    file = Path(target["outputFile"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"artifacts": artifacts}))


def _metadata(record: dict[str, Any], is_metrics: bool) -> dict[str, Any]:
    """Figures alone for KFP's metrics, which it draws; other artifacts also get their origin."""
    figures = {key: v for key, v in record["summary"].items() if isinstance(v, int | float)}
    if is_metrics:
        return figures
    facts = {"stage": record["stage"], "fingerprint": record["fingerprint"]}
    return {**figures, **artifact.provenance(record), **facts}
