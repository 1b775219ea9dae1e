"""Rows in the usual shapes as the stages want them: conversations, preferences, problems.

    conversations  messages [{role, content}]; ShareGPT's conversations [{from, value}] with a
                   system field; prompt or instruction (with input) and completion, response, output
    preferences    prompt, chosen, rejected; the answers may be lists of messages
    problems       prompt, question or problem, answer, verifier; GSM8K's "... #### 42"

What does not fit raises Unfit with the reason under which it is counted: nothing is cut or mended.
"""

import re
from collections.abc import Mapping
from typing import Any

from model.rewards import VERIFIERS
from model.tokenizer import reasoned

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
PROMPTS = ("prompt", "question", "problem", "instruction")
COMPLETIONS = ("completion", "response", "output", "answer")
# What the forms of each part read; nothing else of a row is looked at, or even read from Parquet.
ASKED = {*PROMPTS, "input", "context", "system", "history", "tools", "functions", "tool_calls"}
THOUGHT = {"reasoning_content", "reasoning", "thinking", "thought", "thoughts"}
READS = {
    "sft": ASKED | THOUGHT | {"messages", "conversations", "conversation", *COMPLETIONS},
    "preferences": ASKED | THOUGHT | {"messages", "conversations", "chosen", "rejected"},
    "problems": ASKED | {"answer", "solution", "verifier"},
    "test": ASKED | {"answer", "solution", "verifier"},
}
THINK = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
Row = Mapping[str, Any]


class Unfit(ValueError):
    """A row that no stage can use; its text is the reason, in a word."""


def conversation(row: Row) -> dict[str, Any]:
    """{"messages"}: an optional system message, then user and assistant in turn."""
    messages = [_message(message) for message in _turns(row)]
    roles = [message["role"] for message in messages]
    asked = roles[1:] if roles[:1] == ["system"] else roles
    if "assistant" not in asked:
        raise Unfit("no_answer")
    if asked != ["user", "assistant"] * (len(asked) // 2):
        raise Unfit("roles_out_of_turn")
    return {"messages": messages}


def preference(row: Row) -> dict[str, str]:
    """{"prompt", "chosen", "rejected"}: one question and two different answers."""
    prompt, chosen = _exchange(row, "chosen")
    other, rejected = _exchange(row, "rejected")
    if prompt != other:
        raise Unfit("different_prompts")
    if chosen == rejected:
        raise Unfit("identical_pair")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def problem(row: Row, verifier: str) -> dict[str, str]:
    """{"prompt", "answer", "verifier"}; the row's own verifier counts before the given one."""
    prompt = _text(_first(row, PROMPTS), "no_prompt")
    given = _first(row, ("answer", "solution"))
    answer = _text(str(given) if isinstance(given, int | float) else given, "no_answer")
    named = row.get("verifier") or verifier
    if named not in tuple(VERIFIERS):
        raise Unfit("unknown_verifier")
    if named != "code":  # whose answers are tests, which may hold any comment
        answer = _text(answer.rpartition("####")[2], "no_answer")
    return {"prompt": prompt, "answer": answer, "verifier": named}


def _exchange(row: Row, side: str) -> tuple[str, str]:
    """The question and one of its answers."""
    given = row.get(side)
    if not isinstance(given, list):
        answer = _text(given, f"no_{side}")
        return _text(row.get("prompt"), "no_prompt"), _delimited(answer)
    turns = given if len(given) > 1 else [*_asked(row), *given]
    messages = conversation({"messages": turns})["messages"]
    if [message["role"] for message in messages] != ["user", "assistant"]:
        raise Unfit("several_turns")
    return messages[0]["content"], messages[1]["content"]


def _turns(row: Row) -> list[Any]:
    turns = _first(row, ("messages", "conversations"))
    if turns is None:
        answer = _first(row, COMPLETIONS)
        if not isinstance(answer, list):
            answer = [{"role": "assistant", "content": _text(answer, "no_answer")}]
        return [*_asked(row), *answer]
    if not isinstance(turns, list) or not turns:
        raise Unfit("no_messages")
    system = row.get("system")
    return [{"role": "system", "content": system}, *turns] if system else turns


def _asked(row: Row) -> list[dict[str, Any]]:
    """The messages before the answer of a row that names a prompt."""
    prompt = _first(row, PROMPTS)
    if isinstance(prompt, list):
        return prompt
    parts = [prompt, row.get("input")]
    text = "\n\n".join(part for part in parts if isinstance(part, str) and part.strip())
    system = row.get("system")
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": _text(text, "no_prompt")}]


def _message(given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise Unfit("no_messages")
    role = ROLES.get(str(_first(given, ("role", "from"))))
    if role is None:
        raise Unfit("unknown_role")
    content = _text(_first(given, ("content", "value")), "empty_message")
    return {"role": role, "content": _delimited(content) if role == "assistant" else content}


def _delimited(answer: str) -> str:
    """An answer that thinks between <think> tags, with the delimiters of thought and solution."""
    found = THINK.fullmatch(answer)
    return reasoned(found[1].strip(), found[2].strip()) if found else answer


def _first(row: Row, names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _text(given: Any, reason: str) -> str:
    if not isinstance(given, str) or not given.strip():
        raise Unfit(reason)
    return given.strip()
