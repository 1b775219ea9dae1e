"""The data sets of `published` whose rows are problems with a gold."""


def problem(prompt, answer, verifier="math"):
    return {"prompt": prompt, "answer": answer, "verifier": verifier}


def math(problem, solution, level="Level 1"):
    return {"problem": problem, "level": level, "type": "Algebra", "solution": solution}


def mbpp(text, tests, setup=""):
    code = "def add(a, b):\r\n  return a + b"
    return {
        **{"task_id": 601, "text": text, "code": code, "test_list": tests},
        **{"test_setup_code": setup, "challenge_test_list": []},
    }


PROBLEMS = {
    "gsm8k": (
        "openai/gsm8k/main/train-00000-of-00001.parquet",
        [
            {
                "question": "Ada has 2 shells and finds 5 more. How many?",
                "answer": "She has 2+5=<<2+5=7>>7 shells.\n#### 7",
            },
            {"question": "A thousand and seven?", "answer": "It is 1,007.\n#### 1,007"},
            {"question": "How many?", "answer": "Seven."},
            {"question": "How many more?", "answer": "#### 7\nOr eight."},
        ],
        [
            problem("Ada has 2 shells and finds 5 more. How many?", "7"),
            problem("A thousand and seven?", "1,007"),
            *("no_answer", "no_answer"),
        ],
    ),
    "math": (
        "EleutherAI/hendrycks_math/algebra/train-00000-of-00001.parquet",
        [
            math("Find $2+5$.", "No $\\boxed{6}$, we add: $2+5=\\boxed{7}$.", "Level 3"),
            math("Halve it.", "So $\\boxed{\\frac{1}{\\sqrt{2}}}$."),
            math("Count.", "We get \\boxed 5."),
            math("Double.", "It costs \\$1, so $x = \\boxed 2\\sqrt 3.$ Then $y = 1$."),
            math("Triple.", "So \\[x = \\boxed \\frac{1}{3}\\]"),
            math("Cut.", "We get $\\boxed{\\frac{1}{2}$"),
        ],
        [
            problem("Find $2+5$.", "7"),
            problem("Halve it.", "\\frac{1}{\\sqrt{2}}"),
            problem("Count.", "5"),
            problem("Double.", "2\\sqrt 3"),
            problem("Triple.", "\\frac{1}{3}"),
            "no_answer",
        ],
    ),
    "math-12k": (
        "ankner/math-500/data/train-00000-of-00001.parquet",
        [{**math("Find $3+5$.", "We add: $\\boxed{8}$."), "answer": "8", "unique_id": "x"}],
        [problem("Find $3+5$.", "8")],
    ),
    "countdown-3to4": (
        "Jiayi-Pan/Countdown-Tasks-3to4/data/train-00000-of-00001.parquet",
        [
            {"target": target, "nums": nums}
            for target, nums in ((23, [4, 5, 3]), (9, []), (-1, [4, 5]))
        ],
        [
            problem(
                "Make 23 from 4, 5, 3: use each number once, with + - * / ( ).",
                "4, 5, 3 -> 23",
                "countdown",
            ),
            *("no_prompt", "no_puzzle"),
        ],
    ),
    "dapo-math-17k": (
        "open-r1/DAPO-Math-17k-Processed/en/train-00000-of-00001.parquet",
        [{"prompt": "Find $4+5$.", "solution": "9", "data_source": "math_dapo", "ability": "MATH"}],
        [problem("Find $4+5$.", "9")],
    ),
    "mbpp": (
        "google-research-datasets/mbpp/full/train-00000-of-00001.parquet",
        [
            mbpp("Write a function to add.", ["assert add(2, 5) == 7", "assert add(1, 1) == 2"]),
            mbpp("", ["assert add(2, 5) == 7"]),
            mbpp("Write a function.", []),
        ],
        [
            problem(
                "Write a function to add.\nYour code should pass this test:\nassert add(2, 5) == 7",
                "assert add(2, 5) == 7\nassert add(1, 1) == 2",
                "code",
            ),
            *("no_prompt", "no_prompt"),
        ],
    ),
    "math-500": (
        "HuggingFaceH4/MATH-500/test.jsonl",
        [
            {
                **{"problem": "Find $6+5$.", "solution": "We add: $\\boxed{11}$.", "answer": "11"},
                **{"subject": "Algebra", "level": 1, "unique_id": "test/algebra/0.json"},
            }
        ],
        [problem("Find $6+5$.", "11")],
    ),
    "humaneval": (
        "openai/openai_humaneval/openai_humaneval/test-00000-of-00001.parquet",
        [
            {
                **{"task_id": "HumanEval/999", "canonical_solution": "    return a + b\n"},
                **{"prompt": 'def add(a, b):\n    """Add."""\n', "entry_point": "add"},
                "test": "def check(candidate):\n    assert candidate(2, 5) == 7\n",
            }
        ],
        [
            problem(
                'Complete this function:\n\ndef add(a, b):\n    """Add."""',
                "def check(candidate):\n    assert candidate(2, 5) == 7\n\ncheck(add)",
                "code",
            )
        ],
    ),
}
