"""The command line of every stage, built from the signature of its `run`.

A parameter annotated with a dataclass or `dict` is a JSON flag, one with a Literal a word, every
other one (see `artifact`) a path. The inputs are verified and the outputs made before `run` starts.
What a stage does is not here.
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
from typing import Any, NoReturn

from components import artifact, coerce, outputs
from components.failure import Failed, explain, is_full, is_of_the_system
from model.training.preemption import SIGNALS, Preempted, Stopped, leave, stoppable

FILES = (artifact.OutputFile, artifact.Parameter)
SHOWN = (artifact.Output, artifact.OutputFile)


def start(stage: str) -> None:
    """`python -m components.STAGE`, ended by one line also where a signal meets the slow imports.

    In a container, as its first process, it would not even end: nothing is done there by default.
    """
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: found for number, found in before.items() if found in usual}
    for number in before:
        signal.signal(number, leave)
    run = importlib.import_module(f"components.{stage}.stage").run
    for number, found in before.items():
        signal.signal(number, found)
    main(run)


def main(run: Callable[..., None], arguments: list[str] | None = None) -> None:
    """Runs a stage; ends the process with exit code 2 on bad input.

    Exit code 1 is for what the machine refuses: a disk that is full, a path that may not be read or
    written. A stage that was told to stop (SIGTERM) ends with 143, for the pipeline to start it
    again, by SIGINT with 130 and by SIGHUP with 129. Of several processes under torchrun the first
    checks the inputs and makes the outputs.
    """
    stage = run.__module__.removesuffix(".stage")
    hints = typing.get_type_hints(run, include_extras=True)
    roles = {name: hints[name] for name in inspect.signature(run).parameters}
    given = _parser(stage, run, roles).parse_args(arguments)
    paths = {name: getattr(given, name) for name, hint in roles.items() if _is_path(hint)}
    try:
        with stoppable():
            _run(stage, run, roles, given, paths)
    except Stopped as notice:
        _end(stage, f"{notice}; the same command starts anew", notice.code, kind="stopped")
    except Preempted as notice:
        _end(stage, str(notice), notice.code, kind="stopped")
    except (ValueError, FileNotFoundError) as error:
        _end(stage, explain(error), 2)
    except (FloatingPointError, Failed) as error:
        _end(stage, str(error), 1)
    except Exception as error:
        if not is_of_the_system(error):
            raise
        where = f"cannot write to {_places(paths, roles)}: " if is_full(error) else ""
        _end(stage, f"{where}{explain(error)}", 1)


def _run(
    stage: str,
    run: Callable[..., None],
    roles: dict[str, Any],
    given: argparse.Namespace,
    paths: dict[str, Path],
) -> None:
    """Builds the configurations, checks the paths, and runs the stage on them."""
    is_first = os.environ.get("RANK", "0") == "0"
    configs = {
        name: _config(hint, name, getattr(given, name))
        for name, hint in roles.items()
        if not _is_path(hint)
    }
    inputs = [path for name, path in paths.items() if roles[name] == artifact.Input]
    directories = {name: path for name, path in paths.items() if roles[name] == artifact.Output}
    files = {name: path for name, path in paths.items() if roles[name] in FILES}
    if not is_first:
        run(**configs, **paths)
        return
    outputs.check(stage, directories, files, inputs)
    for path in inputs:
        artifact.verify(path)
    with outputs.claimed(stage, directories, files):
        run(**configs, **paths)
    if given.executor_input:
        shown = {name: path for name, path in paths.items() if roles[name] in SHOWN}
        _report_outputs(json.loads(given.executor_input), shown)


def _parser(stage: str, run: Callable, roles: dict[str, Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {stage}",
        description=inspect.getdoc(run),
        epilog="\n".join(_help(h) for h in roles.values() if _is_config(h)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, hint in roles.items():
        flag = f"--{name.replace('_', '-')}"
        if _is_path(hint):
            role = typing.get_args(hint)[1]
            is_file = hint in FILES
            text = f"{role}, not kept unless named" if is_file else f"{role} directory"
            parser.add_argument(
                flag,
                dest=name,
                type=Path,
                required=not is_file,
                default=Path(os.devnull) if is_file else None,
                metavar="PATH",
                help=text,
            )
        elif typing.get_origin(hint) is typing.Literal:
            default = inspect.signature(run).parameters[name].default
            words = ", ".join(typing.get_args(hint))
            parser.add_argument(flag, dest=name, default=default, metavar="WORD", help=words)
        else:
            is_open = hint is dict
            text = f"JSON object{'' if is_open else f' of {hint.__name__} fields, below'}"
            parser.add_argument(flag, dest=name, default="{}", metavar="JSON", help=text)
    parser.add_argument("--executor-input", help=argparse.SUPPRESS)
    return parser


def _config(kind: type, name: str, text: str) -> Any:
    """A dataclass from JSON, or the JSON object itself where the stage builds it; or a word."""
    if typing.get_origin(kind) is typing.Literal:
        return coerce.value(kind, text, name)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--{name}: not JSON: {error}") from None
    if _is_config(kind):
        return coerce.build(kind, values, "" if name == "config" else name)
    return coerce.value(kind, values, f"--{name}")


def _is_config(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _is_path(hint: Any) -> bool:
    return hint in (artifact.Input, artifact.Output, *FILES)


def fields(kind: type) -> list[tuple[str, str, str, str]]:
    """Name, type, default and meaning (the docstring below it) of a configuration's fields."""
    documents = {}
    for base in reversed(kind.__mro__[:-1]):
        documents.update(_documents(base))
    found = []
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        hint = re.sub(r"[\w.]+\.(\w+)", r"\1", inspect.formatannotation(field.type))
        default = "required" if field.default is dataclasses.MISSING else repr(field.default)
        found.append((field.name, hint, default, " ".join(documents.get(field.name, "").split())))
    return found


def _help(kind: type) -> str:
    lines = [f"fields of {kind.__name__}:"]
    for name, hint, default, meaning in fields(kind):
        lines.append(f"  {name}: {hint} = {default}")
        lines += textwrap.wrap(meaning, 92, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def _documents(kind: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name) and isinstance(text.value, ast.Constant)
            found[field.target.id] = str(text.value.value)
    return found


def _report_outputs(executor_input: dict[str, Any], written: dict[str, Path]) -> None:
    """Writes KFP's executor output: every output artifact with its record's figures as metadata."""
    target = executor_input["outputs"]
    artifacts = {}
    for name, path in written.items():
        (declared,) = target["artifacts"][name]["artifacts"]
        if path.is_dir():
            known = declared.get("metadata", {})
            is_metrics = declared.get("type", {}).get("schemaTitle") == "system.Metrics"
            declared["metadata"] = {**known, **_metadata(artifact.read(path), is_metrics)}
        artifacts[name] = {"artifacts": [declared]}
    file = Path(target["outputFile"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"artifacts": artifacts}))


def _metadata(record: dict[str, Any], is_metrics: bool) -> dict[str, Any]:
    """The figures alone for KFP's metrics, which it draws; for the rest, where they come from."""
    figures = {key: v for key, v in record["summary"].items() if isinstance(v, int | float)}
    if is_metrics:
        return figures
    facts = {"stage": record["stage"], "fingerprint": record["fingerprint"]}
    return {**figures, **artifact.provenance(record), **facts}


def _places(paths: dict[str, Path], roles: dict[str, Any]) -> str:
    return ", ".join(str(path) for name, path in paths.items() if roles[name] != artifact.Input)


def _end(stage: str, message: str, code: int, *, kind: str = "error") -> NoReturn:
    print(f"{stage}: {kind}: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
