"""Rows in the usual shapes, turned into the rows that stages read.

    conversations  messages [{role, content}]; ShareGPT's conversations [{from, value}]; prompt,
                   question, problem or instruction, and completion, response, output or answer
    preferences    prompt, chosen, rejected; the answers may be lists of messages
    problems       prompt, question, problem or instruction, answer or solution, verifier;
                   GSM8K's "... #### 42"

Each may have a system (system_prompt) and, with a prompt, an input, a context and a history
[[question, answer]]. Columns outside READS are ignored. A row that does not fit raises Unfit with
the reason under which it is counted: no row is cut or repaired.
"""

import re
from typing import Any, TypeGuard

from components.data import puzzles, wording
from components.data.jsonlines import Row
from components.data.wording import Unfit, first, has_value
from components.rewards.config import VERIFIERS
from model.tokenizer import DELIMITER

PROMPTS = ("prompt", "question", "problem", "instruction")
COMPLETIONS = ("completion", "response", "output", "answer")
TALKS = ("messages", "conversations")
SYSTEMS = ("system", "system_prompt")
MATERIAL = ("input", "context")
TOOLS = ("tools", "functions")
SHOWN = (  # the subject of a question, which must be part of its prompt
    *("choices", "options", "passage", "passages", "paragraph", "document", "documents"),
    *("article", "story", "starter_code"),
)
TRANSCRIPT = re.compile(r"\s*Human: .*\n\nAssistant:", re.DOTALL)

_BESIDE = (*SYSTEMS, *MATERIAL, "history", *TOOLS, *wording.CALLS, *wording.MEDIA, *SHOWN)
_PROBLEM = {*PROMPTS, "answer", "solution", "verifier", *_BESIDE}
READS = {
    "sft": {*TALKS, *PROMPTS, *COMPLETIONS, *wording.THOUGHTS, *_BESIDE},
    "preferences": {*PROMPTS, "chosen", "rejected", *_BESIDE},
    "problems": _PROBLEM,
    "test": _PROBLEM,
}
"""The columns of each part that are used, or for which a row is dropped."""


def conversation(row: Row) -> dict[str, Any]:
    """{"messages"}: an optional system message, then user and assistant in turn."""
    _refuse_tools(row)
    return {"messages": _in_turn(_turns(row))}


def preference(row: Row, *, with_turns: bool = False) -> dict[str, Any]:
    """{"prompt", "chosen", "rejected"}, and "system": one question and two different answers.

    With `with_turns` there may be a dialogue before the question: "turns", its messages.
    """
    _refuse_tools(row)
    question, chosen = _exchange(row, "chosen", with_turns)
    other, rejected = _exchange(row, "rejected", with_turns)
    if question != other:
        raise Unfit("different_prompts")
    if chosen == rejected:
        raise Unfit("identical_pair")
    return {**question, "chosen": chosen, "rejected": rejected}


def problem(row: Row, verifier: str) -> dict[str, str]:
    """{"prompt", "answer", "verifier"}, and "system"; `verifier` is used if the row names none."""
    _refuse_tools(row)
    question = _question([wording.message(turn) for turn in _prompt(row)])
    gold = wording.text(first(row, ("answer", "solution")), "no_answer")
    verifier = row.get("verifier") or verifier
    if verifier not in VERIFIERS:
        raise Unfit("unknown_verifier")
    if verifier != "code":  # an answer there is tests, and #### in them is a comment
        gold = _final(gold)
    if verifier in puzzles.MADE:
        _refuse_no_puzzle(verifier, gold)
    return {**question, "answer": gold, "verifier": verifier}


def _refuse_no_puzzle(verifier: str, puzzle: str) -> None:
    """No answer could be right to a text that is no puzzle, or to a Sudoku without a solution."""
    try:
        solutions = puzzles.identity(verifier, puzzle)
    except ValueError:
        raise Unfit("no_puzzle") from None
    if not solutions:
        raise Unfit("no_solution")


def _final(answer: str) -> str:
    """The text after #### in the last line of a GSM8K answer; any other answer as it is."""
    last = answer.rpartition("\n")[2]
    if answer.endswith("####"):
        raise Unfit("no_answer")
    if wording.TAG.search(answer) or DELIMITER.search(answer):
        raise Unfit("thought_in_answer")  # no solution could equal it
    return last.removeprefix("#### ").strip() if last.startswith("#### ") else answer


def _exchange(row: Row, side: str, with_turns: bool) -> tuple[dict[str, Any], str]:
    """The question and one of its answers."""
    value = row.get(side)
    if _is_talk(value) and len(value) > 1:
        talk = _beside(row, value, missing="different_prompts")
    elif _is_talk(value):
        talk = [*_prompt(row), *value]
    else:
        _refuse_transcript(value)
        answer = wording.answer(value, {}, f"no_{side}")
        talk = [*_prompt(row), {"role": "assistant", "content": answer}]
    *before, last = _in_turn(talk)
    if not with_turns:
        return _question(before), last["content"]
    first = int(before[0]["role"] == "system")
    turns = before[first:-1]
    question = _question([*before[:first], before[-1]])
    return {**question, "turns": turns} if turns else question, last["content"]


def _question(messages: list[dict[str, str]]) -> dict[str, Any]:
    """{"prompt"}, and "system" if there is one, of a question of one turn."""
    roles = [message["role"] for message in messages]
    if "user" not in roles:
        raise Unfit("no_prompt")
    if roles not in (["user"], ["system", "user"]):
        raise Unfit("several_turns")
    prompt = {"prompt": messages[-1]["content"]}
    return {"system": messages[0]["content"], **prompt} if len(messages) == 2 else prompt


def _in_turn(talk: list[Any]) -> list[dict[str, str]]:
    """The messages of a dialogue that ends with an answer."""
    messages = [wording.message(turn) for turn in talk]
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if "assistant" not in turns:
        raise Unfit("no_answer")
    if turns != ["user", "assistant"] * (len(turns) // 2):
        raise Unfit("roles_out_of_turn")
    return messages


def _turns(row: Row) -> list[Any]:
    talk = first(row, TALKS)
    if talk is None:
        answer = first(row, COMPLETIONS)
        if not _is_talk(answer):
            _refuse_transcript(answer)
            content = wording.answer(answer, row, "no_answer")
            return [*_prompt(row), {"role": "assistant", "content": content}]
        talk = [*_prompt(row), *answer]
    elif isinstance(talk, list) and talk:
        talk = _beside(row, talk, missing="prompt_beside_messages")
    else:
        raise Unfit("no_messages")
    thought = wording.thought(row)
    if thought is not None and thought not in _contents(talk):
        raise Unfit("thought_beside_messages")
    return talk


def _prompt(row: Row) -> list[Any]:
    """The messages before the answer of a row that has a prompt, or else an input."""
    names = PROMPTS if first(row, PROMPTS) is not None else MATERIAL[:1]
    prompt = first(row, names)
    if _is_talk(prompt):
        return _beside(row, prompt, missing="several_prompts")
    _refuse_transcript(prompt)
    beside = [row[name] for name in MATERIAL if name not in names and has_value(row.get(name))]
    question = "\n\n".join(wording.text(value, "no_prompt") for value in (prompt, *beside))
    for other in (row[name] for name in PROMPTS if has_value(row.get(name))):
        if not _is_talk(other) and wording.text(other, "no_prompt") not in question:
            raise Unfit("several_prompts")  # nobody can tell which of them the answer is for
    _refuse_unshown(row, question)
    return [*_system(row), *_history(row), {"role": "user", "content": question}]


def _beside(row: Row, talk: list[Any], *, missing: str) -> list[Any]:
    """Messages with the row's system before them.

    Raises Unfit if a column says something that is not in the messages: `missing` for a prompt.
    """
    contents = _contents(talk)
    if has_value(row.get("history")):
        raise Unfit("history_beside_messages")
    for name in (*MATERIAL, *PROMPTS):
        value = row.get(name)
        if not has_value(value) or _is_talk(value):
            continue
        if wording.text(value, "no_prompt") not in contents:
            raise Unfit(missing if name in PROMPTS else f"{name}_beside_messages")
    _refuse_unshown(row, contents)
    own = wording.message(talk[0])
    system = _system(row)
    return talk if own in system else [*system, *talk]


def _contents(talk: list[Any]) -> str:
    return "\n".join(wording.message(turn)["content"] for turn in talk)


def _is_talk(value: Any) -> TypeGuard[list[Any]]:
    """Whether a value is a list of messages, not a list of the parts of a message."""
    items = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    return any(first(item, ("role", "from")) is not None for item in items)


def _system(row: Row) -> list[dict[str, str]]:
    system = next((row[name] for name in SYSTEMS if has_value(row.get(name))), None)
    if system is None:
        return []
    return [{"role": "system", "content": wording.text(system, "empty_message")}]


def _history(row: Row) -> list[Any]:
    """Earlier turns: Alpaca's [question, answer] pairs, or messages."""
    history = row.get("history")
    if not has_value(history):
        return []
    turns: list[Any] = []
    for turn in history if isinstance(history, list) else [None]:
        if isinstance(turn, dict):
            turns.append(turn)
        elif isinstance(turn, list) and len(turn) == 2:
            pair = zip(("user", "assistant"), turn, strict=True)
            turns += [{"role": role, "content": content} for role, content in pair]
        else:
            raise Unfit("history")
    return turns


def _refuse_unshown(row: Row, question: str) -> None:
    """A question without its passage, or without its choices, is a different question."""
    for name in SHOWN:
        if not all(text in question for text in _texts(row.get(name), name)):
            raise Unfit(name)


def _texts(value: Any, name: str, depth: int = 4) -> list[str]:
    """The texts in a column, which may hold one, or lists or objects of them."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return [wording.text(value, name)] if has_value(value) else []
    if value and not depth:
        raise Unfit(name)
    return [text for inner in value for text in _texts(inner, name, depth - 1)]


def _refuse_tools(row: Row) -> None:
    if any(has_value(row.get(name)) for name in TOOLS):
        raise Unfit("tools")
    wording.refuse(row)


def _refuse_transcript(value: Any) -> None:
    """HH-RLHF has whole dialogues in one string, which is neither a question nor an answer."""
    if isinstance(value, str) and TRANSCRIPT.match(value):
        raise Unfit("transcript")
