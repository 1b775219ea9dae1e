"""Preferences and problems as published sets and people's exports write them, as in
`conversation_shapes`."""

from decimal import Decimal

from model.tokenizer import reasoned
from tests.components.data.conversation_shapes import (
    ASK,
    HH,
    NAN,
    SYSTEM,
    THOUGHT,
    TOLD,
    A,
    Q,
    part,
    said,
)

PAIR = {**ASK, "chosen": "7", "rejected": "8"}
PREFERENCES = {
    "UltraFeedback": (
        {
            **ASK,
            "prompt_id": "0a",
            "chosen": [Q, A],
            "rejected": [Q, said("8")],
            "messages": [Q, A],
            "score_chosen": 8.5,
            "score_rejected": 3.0,
        },
        PAIR,
    ),
    "HH-RLHF": ({"chosen": f"{HH} An oak.", "rejected": f"{HH} No."}, "transcript"),
    "HH golden": ({"prompt": HH, "chosen": "An oak.", "rejected": "No."}, "transcript"),
    "system": ({**PAIR, "system": "Be brief."}, {"system": "Be brief.", **PAIR}),
    "system of lists": (
        {"system": "Be brief.", "prompt": [Q], "chosen": [A], "rejected": [said("8")]},
        {"system": "Be brief.", **PAIR},
    ),
    "system in lists": (
        {"chosen": [SYSTEM, Q, A], "rejected": [SYSTEM, Q, said("8")]},
        {"system": "Be brief.", **PAIR},
    ),
    "two systems": ({"chosen": [SYSTEM, Q, A], "rejected": [Q, said("8")]}, "different_prompts"),
    "input": ({**PAIR, "input": "Say it."}, {**PAIR, "prompt": "Add 2 and 5.\n\nSay it."}),
    "question and context": (
        {"question": "Add.", "context": "2, 5", "chosen": 7, "rejected": 8.0},
        {**PAIR, "prompt": "Add.\n\n2, 5"},
    ),
    "another prompt": (
        {"prompt": "Add 2.", "chosen": [{**Q, "content": "Add 3."}, A], "rejected": [Q, A]},
        "different_prompts",
    ),
    "two prompts": ({**PAIR, "instruction": "Answer in French."}, "several_prompts"),
    "history": ({**PAIR, "history": [["Hello", "Hi"]]}, "several_turns"),
    "thoughts": (
        {**PAIR, "chosen": [{**A, "reasoning_content": THOUGHT}], "rejected": "Hm.</think>8"},
        {**ASK, "chosen": TOLD["content"], "rejected": reasoned("Hm.", "8")},
    ),
    "parts": ({**PAIR, "chosen": [part("7")], "rejected": part("8")}, PAIR),
    "tool calls": ({**PAIR, "chosen": [{**A, "tool_calls": [{}, "f"]}]}, "tool_calls"),
    "tools": ({**PAIR, "tools": ["f"]}, "tools"),
    "a picture": ({**PAIR, "image": "a.png"}, "not_text"),
}


SUM = {**ASK, "answer": "7", "verifier": "exact"}
CODE = "#### a test\nassert add(2, 5) == 7\n#### done"
PROBLEMS = {
    "GSM8K": ({"question": "Add 2 and 5.", "answer": "2+5=<<2+5=7>>7 shells.\n#### 7"}, SUM),
    "GSM8K's comma": ({**ASK, "answer": "It is.\n#### 1,007\n"}, {**SUM, "answer": "1,007"}),
    "MATH": (
        {"problem": "Add 2 and 5.", "level": "Level 1", "solution": "So $\\boxed{7}$."},
        {**SUM, "answer": "So $\\boxed{7}$."},
    ),
    "MATH-500": ({"problem": "Add 2 and 5.", "solution": "So 7.", "answer": "7"}, SUM),
    "DAPO": ({"prompt": [Q], "reward_model": {"ground_truth": "7"}}, "no_answer"),
    "MBPP sanitized": ({**ASK, "code": "a + b", "test_list": ["assert True"]}, "no_answer"),
    "HumanEval": ({**ASK, "canonical_solution": "7", "test": "assert True"}, "no_answer"),
    "Countdown": ({"target": 23, "nums": [4, 5, 3]}, "no_prompt"),
    "MMLU": ({"question": "Add.", "choices": ["seven", "eight"], "answer": 0}, "choices"),
    "BoolQ": ({"question": "Is it?", "passage": "It is.", "answer": True}, "passage"),
    "system": (
        {"system": "Be brief.", "instruction": "Add.", "input": "2, 5", "answer": "7"},
        {**SUM, "system": "Be brief.", "prompt": "Add.\n\n2, 5"},
    ),
    "messages": ({"prompt": [SYSTEM, Q], "answer": "7"}, {**SUM, "system": "Be brief."}),
    "two prompts": ({**ASK, "problem": "Add 3.", "answer": "7"}, "several_prompts"),
    "turns": ({"prompt": [Q, A, Q], "answer": "7"}, "several_turns"),
    "a heading": ({**ASK, "answer": "#### One\nText."}, {**SUM, "answer": "#### One\nText."}),
    "a sign": ({**ASK, "answer": "a #### b"}, {**SUM, "answer": "a #### b"}),
    "a fifth level": ({**ASK, "answer": "a\n##### b"}, {**SUM, "answer": "a\n##### b"}),
    "R1's answer": ({**ASK, "answer": "<think>a</think>7"}, "thought_in_answer"),
    "OpenThoughts' answer": ({**ASK, "answer": TOLD["content"]}, "thought_in_answer"),
    "cut off": ({**ASK, "answer": "It is\n####"}, "no_answer"),
    "code": (
        {**ASK, "answer": CODE, "verifier": "code"},
        {**ASK, "answer": CODE} | {"verifier": "code"},
    ),
    "a puzzle": (
        {**ASK, "answer": "1204340021434301", "verifier": "sudoku"},
        {**ASK, "answer": "1204340021434301", "verifier": "sudoku"},
    ),
    "no puzzle": ({**ASK, "answer": "7", "verifier": "countdown"}, "no_puzzle"),
    "a puzzle without a solution": (
        {**ASK, "answer": "1104340021434301", "verifier": "sudoku"},
        "no_solution",
    ),
    "5": ({**ASK, "answer": 5}, {**SUM, "answer": "5"}),
    "5.0": ({**ASK, "answer": 5.0}, {**SUM, "answer": "5"}),
    "0.5": ({**ASK, "answer": 0.5}, {**SUM, "answer": "0.5"}),
    "-0.0": ({**ASK, "answer": -0.0}, {**SUM, "answer": "0"}),
    "1e-07": ({**ASK, "answer": 1e-07}, {**SUM, "answer": "0.0000001"}),
    "1e+22": ({**ASK, "answer": 1e22}, {**SUM, "answer": "1" + 22 * "0"}),
    "a decimal": ({**ASK, "answer": Decimal("5.00")}, {**SUM, "answer": "5"}),
    "NaN": ({**ASK, "answer": NAN}, "not_finite"),
    "infinity": ({**ASK, "answer": -float("inf")}, "not_finite"),
    "true": ({**ASK, "answer": True}, "not_text"),
    "a list": ({**ASK, "answer": [7]}, "not_text"),
    "a list of texts": ({**ASK, "answer": ["7", "seven"]}, "not_text"),
}
