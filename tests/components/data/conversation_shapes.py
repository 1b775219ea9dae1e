"""Conversations as published sets and people's exports write them, and what should come of each.

Every row is invented; the columns are those of the sets that are named. A string is the reason for
which a row is counted.
"""

import json

from model.tokenizer import reasoned

Q, A = {"role": "user", "content": "Add 2 and 5."}, {"role": "assistant", "content": "7"}
SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"prompt": "Add 2 and 5."}
THOUGHT = "Two and five."
TOLD = {**A, "content": reasoned(THOUGHT, "7")}
NAN = float("nan")
LAYOUT = "<|begin_of_thought|>\n\n{}\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n{}\n\n"
DELIMITED = LAYOUT.format(THOUGHT, "7") + "<|end_of_solution|>"
HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Name a tree.\n\nAssistant:"


def said(text):
    return {"role": "assistant", "content": text}


def part(text):
    return {"type": "text", "text": text}


CONVERSATIONS = {
    "OpenThoughts": (
        {
            "system": "Be brief.",
            "conversations": [
                {"from": "user", "value": "Add 2 and 5."},
                {"from": "assistant", "value": DELIMITED},
            ],
        },
        [SYSTEM, Q, said(DELIMITED)],
    ),
    "OpenThoughts3": (
        {
            "difficulty": 7,
            "source": "x",
            "conversations": [
                {"from": "human", "value": "Add 2 and 5."},
                {"from": "gpt", "value": "<think>\nTwo and five.\n</think>\n\n7"},
            ],
        },
        [Q, TOLD],
    ),
    "OpenThoughts3 cut off": (
        {**ASK, "completion": "<think>\nTwo and five and"},
        "unclosed_thought",
    ),
    "cut off behind some words": ({**ASK, "completion": "Sure! <think> Two"}, "unclosed_thought"),
    "text before the delimiters": ({**ASK, "completion": f"Sure! {DELIMITED}"}, "delimiters"),
    "a delimiter that is missing": (
        {**ASK, "completion": DELIMITED.replace("<|begin_of_thought|>", "")},
        "delimiters",
    ),
    "delimiters twice": ({**ASK, "completion": DELIMITED * 2}, "delimiters"),
    "a solution alone": (
        {**ASK, "completion": "<|begin_of_solution|>7<|end_of_solution|>"},
        [Q, said("<|begin_of_solution|>7<|end_of_solution|>")],
    ),
    "GSM8K": ({**ASK, "answer": "She has 2+5=<<2+5=7>>7 shells.\n#### 7"}, "calculator"),
    "shifts of bits": ({**ASK, "answer": "x <<= 1\n#### Note"}, [Q, said("x <<= 1\n#### Note")]),
    "OpenThoughts cut off": ({**ASK, "completion": "<|begin_of_thought|> Two"}, "unclosed_thought"),
    "OpenThoughts metadata": (
        {"problem": "Add.", "deepseek_reasoning": THOUGHT, "deepseek_solution": "7"},
        "no_answer",
    ),
    "s1K": (
        {"question": "Add.", "solution": "7", "thinking_trajectories": [THOUGHT], "attempt": "7"},
        "no_answer",
    ),
    "Dolly": (
        {
            "instruction": "Who owns the boat?",
            "context": "The boat is Ada's.",
            "response": "Ada.",
            "category": "closed_qa",
        },
        [{**Q, "content": "Who owns the boat?\n\nThe boat is Ada's."}, said("Ada.")],
    ),
    "Alpaca": (
        {"instruction": "Add.", "input": "2, 5", "output": "7"},
        [{**Q, "content": "Add.\n\n2, 5"}, A],
    ),
    "Alpaca's history": (
        {
            "instruction": "Add 2 and 5.",
            "input": "",
            "output": "7",
            "system": "Be brief.",
            "history": [["Hello", "Hi"], ["Name a tree.", "<think>Tall.</think>An oak."]],
        },
        [
            SYSTEM,
            {**Q, "content": "Hello"},
            said("Hi"),
            {**Q, "content": "Name a tree."},
            said(reasoned("Tall.", "An oak.")),
            Q,
            A,
        ],
    ),
    "history of messages": ({**ASK, "completion": "7", "history": [Q, A]}, [Q, A, Q, A]),
    "no history": ({**ASK, "completion": "7", "history": []}, [Q, A]),
    "odd history": ({**ASK, "completion": "7", "history": [["Hello"]]}, "history"),
    "history as text": ({**ASK, "completion": "7", "history": "Hello: Hi"}, "history"),
    "Tulu 3": ({"id": "1", "messages": [Q, A], "source": "x"}, [Q, A]),
    "Nemotron SFT": (
        {"input": [Q], "output": "7", "reasoning": "on", "system_prompt": "Be brief."},
        [SYSTEM, Q, A],
    ),
    "SlimOrca": (
        {
            "conversations": [
                {"from": "system", "value": "Be brief.", "weight": None},
                {"from": "human", "value": "Add 2 and 5.", "weight": 0.0},
                {"from": "gpt", "value": "7", "weight": 1.0},
            ]
        },
        [SYSTEM, Q, A],
    ),
    "weight 0": ({"messages": [Q, {**A, "weight": 0}]}, "untrained_turn"),
    "input and output": ({"input": "Add 2 and 5.", "output": 7}, [Q, A]),
    "HH-RLHF as sft": ({"prompt": HH, "completion": "An oak."}, "transcript"),
    "MBPP": ({"text": "Add.", "code": "a + b", "test_list": ["assert True"]}, "no_answer"),
    "reasoning_content": ({"messages": [Q, {**A, "reasoning_content": THOUGHT}]}, [Q, TOLD]),
    "reasoning": ({"messages": [Q, {**A, "reasoning": THOUGHT}, Q, A]}, [Q, TOLD, Q, A]),
    "thinking": ({"messages": [Q, {**A, "thinking": THOUGHT}]}, [Q, TOLD]),
    "thought in a column": ({**ASK, "response": "7", "thinking": THOUGHT}, [Q, TOLD]),
    "empty thought": ({"messages": [Q, {**A, "reasoning_content": " "}]}, [Q, A]),
    "a thought twice": (
        {"messages": [Q, said(f"<think>{THOUGHT}</think>7") | {"thinking": THOUGHT}]},
        [Q, TOLD],
    ),
    "two thoughts": (
        {"messages": [Q, said("<think>Other.</think>7") | {"thinking": THOUGHT}]},
        "two_thoughts",
    ),
    "thought and delimiters": ({**ASK, "output": DELIMITED, "thinking": "Other."}, "two_thoughts"),
    "thought beside messages": ({"messages": [Q, A], "thinking": "x"}, "thought_beside_messages"),
    "thought beside an answer": (
        {**ASK, "completion": [A], "thinking": "x"},
        "thought_beside_messages",
    ),
    "thought without answer": (
        {"messages": [Q, {**A, "content": "", "thinking": "x"}]},
        "empty_message",
    ),
    "closing tag alone": ({**ASK, "completion": f"{THOUGHT}\n</think>\n\n7"}, [Q, TOLD]),
    "closing tag in a line": ({**ASK, "completion": f"{THOUGHT}</think> 7"}, [Q, TOLD]),
    "thought in an earlier turn": (
        {"messages": [Q, said(f"{THOUGHT}</think>7"), Q, said(f"<think>{THOUGHT}</think>7")]},
        [Q, TOLD, Q, TOLD],
    ),
    "other tags": ({**ASK, "completion": f"<Thinking>{THOUGHT}</Thinking>\n7"}, [Q, TOLD]),
    "a thought's tag": ({**ASK, "completion": f"{THOUGHT}</thought >7"}, [Q, TOLD]),
    "another tag cut off": ({**ASK, "completion": "<thinking>Two"}, "unclosed_thought"),
    "a rationale": ({**ASK, "answer": "7", "rationale": THOUGHT}, [Q, TOLD]),
    "a chain of thought": ({"messages": [Q, {**A, "chain_of_thought": THOUGHT}]}, [Q, TOLD]),
    "details of a thought": (
        {"messages": [Q, {**A, "reasoning_details": [{"type": "reasoning.text", "text": "x"}]}]},
        "not_text",
    ),
    "two prompts": ({**ASK, "instruction": "Answer in French.", "output": "7"}, "several_prompts"),
    "a prompt twice": ({**ASK, "question": "Add 2 and 5.", "output": "7"}, [Q, A]),
    "a list and a prompt": (
        {"prompt": [Q], "question": "Add 3 and 5.", "output": "7"},
        "several_prompts",
    ),
    "a fence right behind the tag": (
        {**ASK, "completion": "<think>t</think>```python\nx\n```"},
        [Q, said(reasoned("t", "```python\nx\n```"))],
    ),
    "a quoted tag": ({**ASK, "completion": "End `</think>`."}, [Q, said("End `</think>`.")]),
    "several answers": ({**ASK, "completion": ["7", "seven"]}, "not_text"),
    "several thoughts": (
        {**ASK, "completion": "<think>a</think>b<think>c</think>7"},
        "think_tags",
    ),
    "text before a thought": ({**ASK, "completion": "Hm. <think>a</think>7"}, "think_tags"),
    "thought alone": ({**ASK, "completion": "<think>a</think>"}, "no_solution"),
    "a tag in a question": (
        {**ASK, "question": "Say <think>.", "prompt": None, "completion": "7"},
        [{**Q, "content": "Say <think>."}, A],
    ),
    "parts": (
        {
            "messages": [
                {**Q, "content": [part("Add 2"), part("and 5.")]},
                {**A, "content": part(7)},
            ]
        },
        "not_text",
    ),
    "parts of text": (
        {
            "messages": [
                {**Q, "content": [part("Add 2"), part("and 5.")]},
                {**A, "content": [part("7")]},
            ]
        },
        [{**Q, "content": "Add 2\nand 5."}, A],
    ),
    "parts of Parquet": (
        {"messages": [{**Q, "content": [{**part("Add 2 and 5."), "image": None}]}, A]},
        [Q, A],
    ),
    "a part of thought": (
        {"messages": [Q, {**A, "content": [{"type": "thinking", "thinking": THOUGHT}, part("7")]}]},
        [Q, TOLD],
    ),
    "parts in columns": ({"prompt": [part("Add 2 and 5.")], "completion": [part("7")]}, [Q, A]),
    "a picture": (
        {
            "messages": [
                {**Q, "content": [part("What?"), {"type": "image_url", "image_url": {}}]},
                A,
            ]
        },
        "not_text",
    ),
    "pictures": ({**ASK, "completion": "7", "images": [{"bytes": b"x"}]}, "not_text"),
    "no pictures": ({**ASK, "completion": "7", "images": [], "image": None}, [Q, A]),
    "tool calls": ({"messages": [Q, {**A, "tool_calls": [{"id": "1"}]}]}, "tool_calls"),
    "function call": ({"messages": [Q, {**A, "function_call": {"name": "f"}}]}, "tool_calls"),
    "no tool calls": ({"messages": [Q, {**A, "tool_calls": [], "function_call": None}]}, [Q, A]),
    "use of a tool": (
        {"messages": [Q, {**A, "content": [part("7"), {"type": "tool_use", "id": "1"}]}]},
        "tool_calls",
    ),
    "tools": ({"messages": [Q, A], "tools": [{"name": "f"}]}, "tools"),
    "tools in a string": ({"messages": [Q, A], "tools": '[{"name": "f"}]'}, "tools"),
    "no tools": ({"messages": [Q, A], "tools": "[]"}, [Q, A]),
    "a tool's turn": ({"messages": [Q, {"role": "tool", "content": "7"}, A]}, "unknown_role"),
    "context beside messages": ({"messages": [Q, A], "context": "x"}, "context_beside_messages"),
    "context in messages": ({"messages": [Q, A], "context": "2 and 5"}, [Q, A]),
    "input beside messages": (
        {"prompt": [Q], "input": "x", "output": "7"},
        "input_beside_messages",
    ),
    "a context of lists": ({**ASK, "context": {"title": ["a"]}, "completion": "7"}, "not_text"),
    "history beside messages": (
        {"messages": [Q, A], "history": [["a", "b"]]},
        "history_beside_messages",
    ),
    "prompt beside messages": (
        {"messages": [Q, A], "instruction": "Say it in French."},
        "prompt_beside_messages",
    ),
    "system beside a list": ({"system": "Be brief.", "prompt": [Q], "output": "7"}, [SYSTEM, Q, A]),
    "the same system twice": ({"system": "Be brief.", "messages": [SYSTEM, Q, A]}, [SYSTEM, Q, A]),
    "two systems": ({"system": "Be long.", "messages": [SYSTEM, Q, A]}, "roles_out_of_turn"),
    "a blank system": ({"system": " ", "messages": [Q, A]}, [Q, A]),
    "choices unseen": ({**ASK, "choices": ["7", "eight"], "answer": "A"}, "choices"),
    "choices shown": ({**ASK, "options": {"A": "2", "B": "5"}, "answer": "B"}, [Q, said("B")]),
    "an answer that is true": ({**ASK, "answer": True}, "not_text"),
    "an answer that is NaN": ({**ASK, "answer": NAN}, "not_finite"),
    "deep columns": ({**ASK, "answer": "7", "tools": json.loads("[" * 500 + "]" * 500)}, "tools"),
}
