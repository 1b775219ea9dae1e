"""A few rows in the published schema of each data set of the catalogue, made up here, and the rows
that stages read of them, or the reason for which a row is dropped."""

import gzip
import json

import pyarrow
import pyarrow.parquet

from model.tokenizer import BEGIN_SOLUTION, BEGIN_THOUGHT, END_SOLUTION, END_THOUGHT
from tests.components.data.published_problems import PROBLEMS

REASONED = (
    f"{BEGIN_THOUGHT}Two and five make seven.{END_THOUGHT}{BEGIN_SOLUTION}Seven.{END_SOLUTION}"
)
LAID_OUT = (
    f"{BEGIN_THOUGHT}\n\nTwo and five make seven.\n\n{END_THOUGHT}\n\n"
    f"{BEGIN_SOLUTION}\n\nSeven.\n\n{END_SOLUTION}"
)
BOOK = "CHAPTER I.\n\n" + "It was low water, and the tide came in.\n" * 40_000


def conversation(prompt, answer, system=None):
    before = [{"role": "system", "content": system}] if system else []
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": [*before, *turns]}


def pair(prompt, chosen="An oak.", rejected="Rose.", **beside):
    return {**beside, "prompt": prompt, "chosen": chosen, "rejected": rejected}


def talk(*turns, role="role", content="content", names=("user", "assistant")):
    return [{content: text, role: names[number % 2]} for number, text in enumerate(turns)]


def s1k(question, **columns):
    beside = {"solution": "7", "cot_type": "math", "source_type": "x", "metadata": "{'level': 1}"}
    return {**beside, "question": question, "cot": None, **columns}


PUBLISHED = {
    "fineweb-edu": (
        "HuggingFaceFW/fineweb-edu/sample/10BT/000_00000.parquet",
        [
            {
                **{"text": "Tides rise\n  twice a day\tbecause…", "id": "<urn:uuid:0>"},
                **{"dump": "CC-MAIN-2024-10", "url": "https://example.org/tides"},
                **{"file_path": "s3://x/y.warc.gz", "language": "en", "language_score": 0.98},
                **{"token_count": 812, "score": 3.4, "int_score": 3},
            }
        ],
        ["Tides rise\n  twice a day\tbecause…"],
    ),
    "pg19": (
        "emozilla/pg19/data/train-00000-of-00023-abc.parquet",
        [
            {
                **{"short_book_title": "A Walk by the Sea", "publication_date": 1871},
                **{"url": "http://www.gutenberg.org/ebooks/0", "text": BOOK},
            }
        ],
        [BOOK],  # in pieces
    ),
    "openthoughts-114k": (
        "open-thoughts/OpenThoughts-114k/data/train-00000-of-00006.parquet",
        [
            {
                "system": f"Put the thought behind {BEGIN_THOUGHT}.",
                "conversations": talk(
                    "Add two shells to five shells.", LAID_OUT, role="from", content="value"
                ),
            }
        ],
        [
            conversation(
                "Add two shells to five shells.",
                LAID_OUT,
                f"Put the thought behind {BEGIN_THOUGHT}.",
            )
        ],
    ),
    "openthoughts-114k-metadata": (
        "open-thoughts/OpenThoughts-114k/metadata/train-00000-of-00012.parquet",
        [
            {
                **{"problem": "Add two boats to five.", "domain": "code", "source": "olympiads"},
                **{"deepseek_reasoning": "Two and five make seven.", "test_cases": "x" * 2_000_000},
                **{"deepseek_solution": "Seven.", "ground_truth_solution": "$\\boxed{7}$"},
                "starter_code": "def add():",
            },
            {
                **{"problem": "Add two cats to five.", "domain": "math", "source": "olympiads"},
                **{"deepseek_reasoning": "Two and five make seven.", "test_cases": None},
                **{"deepseek_solution": "Seven.", "ground_truth_solution": "$\\boxed{7}$"},
                "starter_code": None,
            },
        ],
        [
            conversation("Add two boats to five.\n\ndef add():", REASONED),
            conversation("Add two cats to five.", REASONED),
        ],
    ),
    "openthoughts3": (
        "open-thoughts/OpenThoughts3-1.2M/data/train-00000-of-00120.parquet",
        [
            {
                **{"difficulty": 7, "source": "ai2-adapt", "domain": "math"},
                "conversations": talk(
                    *("Add two dogs to five.", answer),
                    role="from",
                    content="value",
                    names=("human", "gpt"),
                ),
            }
            for answer in (
                "<think>\nTwo and five make seven.\n</think>\n\nSeven.",
                "<think>\nTwo and five",
            )
        ],
        [conversation("Add two dogs to five.", REASONED), "unclosed_thought"],
    ),
    "bespoke-stratos-17k": (
        "bespokelabs/Bespoke-Stratos-17k/data/train-00000-of-00001.parquet",
        [
            {
                "system": "Your role as an assistant",
                "conversations": talk("Sort a list.", LAID_OUT, role="from", content="value"),
            }
        ],
        [conversation("Sort a list.", LAID_OUT, "Your role as an assistant")],
    ),
    "s1k": (
        "simplescaling/s1K/data/train-00000-of-00001.parquet",
        [
            s1k(
                "Add two ships to five.",
                thinking_trajectories=thoughts,
                attempt="Seven.",
            )
            for thoughts in (["Two and five make seven.", "Another."], [], None)
        ],
        [conversation("Add two ships to five.", REASONED), "no_thought", "no_thought"],
    ),
    "s1k-1.1": (
        "simplescaling/s1K-1.1/data/train-00000-of-00001.parquet",
        [
            s1k(
                "Add two stars to five.",
                **{"gemini_thinking_trajectory": "…", "gemini_attempt": "7"},
                **{"deepseek_thinking_trajectory": "Two and five make seven."},
                **{"deepseek_attempt": "Seven.", "deepseek_grade": "Yes"},
                **{"gemini_grade": "Yes", "deepseek_grade_reason": "", "gemini_grade_reason": ""},
            )
        ],
        [conversation("Add two stars to five.", REASONED)],
    ),
    "dolly-15k": (
        "databricks/databricks-dolly-15k/databricks-dolly-15k.jsonl",
        [
            {
                **{"instruction": "Who owns the boat?", "response": "Ada."},
                **{"context": "The boat is Ada's.", "category": "closed_qa"},
            },
            {
                **{"instruction": "Name a river.", "response": "The Rhine."},
                **{"context": "", "category": "open_qa"},
            },
        ],
        [
            conversation("Who owns the boat?\n\nThe boat is Ada's.", "Ada."),
            conversation("Name a river.", "The Rhine."),
        ],
    ),
    "tulu-3-sft": (
        "allenai/tulu-3-sft-mixture/data/train-00000-of-00006.parquet",
        [{"id": "x_1", "messages": talk("Name a bird.", "A finch."), "source": "x/mix"}],
        [conversation("Name a bird.", "A finch.")],
    ),
    "nemotron-sft": (
        "nvidia/Llama-Nemotron-Post-Training-Dataset/SFT/math/math_v1.1.jsonl",
        [
            {
                **{"input": [{"role": "user", "content": "Add two hats to five."}]},
                **{"output": output, "category": "math", "license": "cc-by-4.0"},
                **{"reasoning": reasoning, "generator": "x", "used_in_training": ["Ultra"]},
                **{"version": "v1.1", "system_prompt": f"detailed thinking {reasoning}"},
            }
            for reasoning, output in (
                ("on", "<think>\nTwo and five make seven.\n</think>\n\nSeven."),
                ("off", "Seven."),
            )
        ],
        [
            conversation("Add two hats to five.", REASONED, "detailed thinking on"),
            "other_reasoning",
        ],
    ),
    "slimorca": (
        "Open-Orca/SlimOrca/oo-labeled_correct.gpt4.sharegpt.jsonl",
        [
            {
                "conversations": [
                    {"from": "system", "value": "Be brief.", "weight": None},
                    {"from": "human", "value": "Name a fish.", "weight": 0.0},
                    {"from": "gpt", "value": "A carp.", "weight": 1.0},
                ]
            }
        ],
        [conversation("Name a fish.", "A carp.", "Be brief.")],
    ),
    "ultrafeedback": (
        "HuggingFaceH4/ultrafeedback_binarized/data/train_prefs-00000-of-00001.parquet",
        [
            {
                **{"prompt": "Name a tree.", "prompt_id": "0a1b", "score_chosen": 8.5},
                **{"chosen": talk("Name a tree.", "An oak."), "score_rejected": rejected},
                **{"rejected": talk("Name a tree.", answer)},
                **{"messages": talk("Name a tree.", "An oak.")},
            }
            for answer, rejected in (("Rose.", 3.0), ("An oak.", 8.5))
        ],
        [pair("Name a tree."), "identical_pair"],
    ),
    "hh-rlhf": (
        "Anthropic/hh-rlhf/helpful-base/train.jsonl.gz",
        [
            {"chosen": f"{before}An oak.", "rejected": f"{other}{answer}"}
            for before, other, answer in (
                ("\n\nHuman: Name an old tree.\n\nAssistant: ",) * 2 + ("Rose.",),
                ("\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Tree?\n\nAssistant: ",) * 2
                + ("No.",),
                ("\n\nHuman: One?\n\nAssistant: ", "\n\nHuman: Two?\n\nAssistant: ", "Rose."),
                ("\n\nHuman: Name a tall tree.\n\nAssistant: ",) * 2 + ("",),
            )
        ],
        [
            pair("Name an old tree."),
            {"turns": talk("Hi", "Hello"), **pair("Tree?", rejected="No.")},
            *("different_prompts", "empty_message"),
        ],
    ),
    "hh-golden": (
        "nz/anthropic-hh-golden-rlhf/data/train-00000-of-00001.parquet",
        [
            {
                "prompt": f"\n\nHuman: {question}\n\nAssistant:{more}",
                **{"chosen": "An oak.", "rejected": "Rose."},
            }
            for question, more in (("Name a green tree.", ""), ("Name it.", " Half an answer"))
        ]
        + [
            {
                **{"prompt": "\n\nHuman: Name a red tree.\n\nAssistant:", "rejected": "Rose."},
                "chosen": "A maple.\n\nHuman: Another?\n\nAssistant: A beech.",
            }
        ],
        [pair("Name a green tree."), "transcript", "transcript"],
    ),
    **PROBLEMS,
}
"""By the name of an entry: the file, its rows, and the rows or reasons that come of them."""


def repositories(published=PUBLISHED):
    """What a Hub with these data sets holds: repository -> file -> bytes."""
    held = {}
    for file, rows, _ in published.values():
        owner, name, path = file.split("/", 2)
        held.setdefault(f"{owner}/{name}", {})[path] = content(path, rows)
    return held


def content(path, rows):
    """The rows as a file of the kind that its name says."""
    if path.endswith(".parquet"):
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
        return sink.getvalue().to_pybytes()
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    return gzip.compress(lines) if path.endswith(".gz") else lines
