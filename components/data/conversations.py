"""Rows in the usual shapes as the stages want them: conversations, preferences, problems.

    conversations  messages [{role, content}]; ShareGPT's conversations [{from, value}]; prompt,
                   question, problem or instruction, and completion, response, output or answer
    preferences    prompt, chosen, rejected; the answers may be lists of messages
    problems       prompt, question, problem or instruction, answer or solution, verifier;
                   GSM8K's "... #### 42"

Beside them each may have a system (system_prompt) and, with a prompt, an input, a context and a
history [[question, answer]]. Columns that are not in READS are not looked at. What does not fit
raises Unfit with the reason under which it is counted: nothing is cut or mended.
"""

import re
from typing import Any, TypeGuard

from components.data import wording
from components.data.wording import Row, Unfit, first, is_given
from components.rewards.named import VERIFIERS
from model.tokenizer import DELIMITER

PROMPTS = ("prompt", "question", "problem", "instruction")
COMPLETIONS = ("completion", "response", "output", "answer")
TALKS = ("messages", "conversations")
SYSTEMS = ("system", "system_prompt")
GIVEN = ("input", "context")
TOOLS = ("tools", "functions")
SHOWN = (  # what a question is about: it has to stand in the prompt
    *("choices", "options", "passage", "passages", "paragraph", "document", "documents"),
    *("article", "story", "starter_code"),
)
TRANSCRIPT = re.compile(r"\s*Human: .*\n\nAssistant:", re.DOTALL)

_BESIDE = (*SYSTEMS, *GIVEN, "history", *TOOLS, *wording.CALLS, *wording.MEDIA, *SHOWN)
_PROBLEM = {*PROMPTS, "answer", "solution", "verifier", *_BESIDE}
READS = {
    "sft": {*TALKS, *PROMPTS, *COMPLETIONS, *wording.THOUGHTS, *_BESIDE},
    "preferences": {*PROMPTS, "chosen", "rejected", *_BESIDE},
    "problems": _PROBLEM,
    "test": _PROBLEM,
}
"""The columns of each part that are used, or for which a row is counted."""


def conversation(row: Row) -> dict[str, Any]:
    """{"messages"}: an optional system message, then user and assistant in turn."""
    _refuse_tools(row)
    return {"messages": _in_turn(_turns(row))}


def preference(row: Row) -> dict[str, str]:
    """{"prompt", "chosen", "rejected"}, and "system": one question and two different answers."""
    _refuse_tools(row)
    asked, chosen = _exchange(row, "chosen")
    other, rejected = _exchange(row, "rejected")
    if asked != other:
        raise Unfit("different_prompts")
    if chosen == rejected:
        raise Unfit("identical_pair")
    return {**asked, "chosen": chosen, "rejected": rejected}


def problem(row: Row, verifier: str) -> dict[str, str]:
    """{"prompt", "answer", "verifier"}, and "system"; the row's own verifier counts first."""
    _refuse_tools(row)
    asked = _question([wording.message(given) for given in _asked(row)])
    gold = wording.text(first(row, ("answer", "solution")), "no_answer")
    named = row.get("verifier") or verifier
    if named not in tuple(VERIFIERS):
        raise Unfit("unknown_verifier")
    if named != "code":  # whose answers are tests, which may end with any comment
        gold = _final(gold)
    return {**asked, "answer": gold, "verifier": named}


def _final(answer: str) -> str:
    """What GSM8K writes behind #### in the last line of its answers; another one is taken whole."""
    last = answer.rpartition("\n")[2]
    if answer.endswith("####"):
        raise Unfit("no_answer")
    if wording.TAG.search(answer) or DELIMITER.search(answer):
        raise Unfit("thought_in_answer")  # no solution could equal it
    return last.removeprefix("#### ").strip() if last.startswith("#### ") else answer


def _exchange(row: Row, side: str) -> tuple[dict[str, str], str]:
    """The question and one of its answers."""
    given = row.get(side)
    if _is_talk(given) and len(given) > 1:
        talk = _beside(row, given, missing="different_prompts")
    elif _is_talk(given):
        talk = [*_asked(row), *given]
    else:
        _refuse_transcript(given)
        answer = wording.answer(given, {}, f"no_{side}")
        talk = [*_asked(row), {"role": "assistant", "content": answer}]
    *before, last = _in_turn(talk)
    return _question(before), last["content"]


def _question(messages: list[dict[str, str]]) -> dict[str, str]:
    """{"prompt"}, and "system" where there is one, of what was asked in one turn."""
    roles = [given["role"] for given in messages]
    if "user" not in roles:
        raise Unfit("no_prompt")
    if roles not in (["user"], ["system", "user"]):
        raise Unfit("several_turns")
    prompt = {"prompt": messages[-1]["content"]}
    return {"system": messages[0]["content"], **prompt} if len(messages) == 2 else prompt


def _in_turn(talk: list[Any]) -> list[dict[str, str]]:
    """The messages of a dialogue that ends with an answer."""
    messages = [wording.message(given) for given in talk]
    roles = [given["role"] for given in messages]
    asked = roles[1:] if roles[:1] == ["system"] else roles
    if "assistant" not in asked:
        raise Unfit("no_answer")
    if asked != ["user", "assistant"] * (len(asked) // 2):
        raise Unfit("roles_out_of_turn")
    return messages


def _turns(row: Row) -> list[Any]:
    talk = first(row, TALKS)
    if talk is None:
        answer = first(row, COMPLETIONS)
        if not _is_talk(answer):
            _refuse_transcript(answer)
            content = wording.answer(answer, row, "no_answer")
            return [*_asked(row), {"role": "assistant", "content": content}]
        talk = [*_asked(row), *answer]
    elif isinstance(talk, list) and talk:
        talk = _beside(row, talk, missing="prompt_beside_messages")
    else:
        raise Unfit("no_messages")
    thought = wording.thought(row)
    if thought is not None and thought not in _told(talk):
        raise Unfit("thought_beside_messages")
    return talk


def _asked(row: Row) -> list[Any]:
    """The messages before the answer of a row that names a prompt, or else an input."""
    names = PROMPTS if first(row, PROMPTS) is not None else GIVEN[:1]
    prompt = first(row, names)
    if _is_talk(prompt):
        return _beside(row, prompt, missing="several_prompts")
    _refuse_transcript(prompt)
    given = [row[name] for name in GIVEN if name not in names and is_given(row.get(name))]
    texts = [wording.text(prompt, "no_prompt"), *(wording.text(one, "no_prompt") for one in given)]
    asked = "\n\n".join(texts)
    for other in (row[name] for name in PROMPTS if is_given(row.get(name))):
        if not _is_talk(other) and wording.text(other, "no_prompt") not in asked:
            raise Unfit("several_prompts")  # which of them is asked nobody can tell
    _refuse_unshown(row, asked)
    return [*_system(row), *_history(row), {"role": "user", "content": asked}]


def _beside(row: Row, talk: list[Any], *, missing: str) -> list[Any]:
    """Messages with the row's system before them.

    Raises Unfit where another column would ask more: `missing` for a prompt.
    """
    told = _told(talk)
    if is_given(row.get("history")):
        raise Unfit("history_beside_messages")
    for name in (*GIVEN, *PROMPTS):
        given = row.get(name)
        if not is_given(given) or _is_talk(given):
            continue
        if wording.text(given, "no_prompt") not in told:
            raise Unfit(missing if name in PROMPTS else f"{name}_beside_messages")
    _refuse_unshown(row, told)
    own = wording.message(talk[0])
    system = _system(row)
    return talk if own in system else [*system, *talk]


def _told(talk: list[Any]) -> str:
    return "\n".join(wording.message(given)["content"] for given in talk)


def _is_talk(given: Any) -> TypeGuard[list[Any]]:
    """Whether a value is a list of messages, and not of the parts of one."""
    mappings = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    return any(first(one, ("role", "from")) is not None for one in mappings)


def _system(row: Row) -> list[dict[str, str]]:
    given = next((row[name] for name in SYSTEMS if is_given(row.get(name))), None)
    if given is None:
        return []
    return [{"role": "system", "content": wording.text(given, "empty_message")}]


def _history(row: Row) -> list[Any]:
    """Alpaca's earlier turns, [question, answer] each, or messages."""
    history = row.get("history")
    if not is_given(history):
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


def _refuse_unshown(row: Row, asked: str) -> None:
    """A question without what it is about, or the answers to choose from, is another one."""
    for name in SHOWN:
        if not all(text in asked for text in _texts(row.get(name), name)):
            raise Unfit(name)


def _texts(given: Any, name: str, depth: int = 4) -> list[str]:
    """The texts in a column, in whatever form they are listed."""
    if isinstance(given, dict):
        given = list(given.values())
    if not isinstance(given, list):
        return [wording.text(given, name)] if is_given(given) else []
    if given and not depth:
        raise Unfit(name)
    return [text for inner in given for text in _texts(inner, name, depth - 1)]


def _refuse_tools(row: Row) -> None:
    if any(is_given(row.get(name)) for name in TOOLS):
        raise Unfit("tools")
    wording.refuse(row)


def _refuse_transcript(given: Any) -> None:
    """HH-RLHF's whole dialogues in one string are no question and no answer."""
    if isinstance(given, str) and TRANSCRIPT.match(given):
        raise Unfit("transcript")
