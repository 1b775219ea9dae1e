"""The public data sets: where their files are, what their columns mean, and their licences.

The schemas are those that the data sets' pages publish. A commit is one that two or more public
repositories, by different people, pin for this data set. Where there was none it is left out, and
`pipelines.pins` asks the Hub when a run starts. `components.data.catalogue` finds an entry.
"""

from components.data.config import Entry

TRAIN = (("train", "data/train-*.parquet"),)

ENTRIES = (
    # Text. Line breaks are kept, which code and papers need.
    Entry(
        name="fineweb-edu",
        kind="text",
        repository="HuggingFaceFW/fineweb-edu",
        commit="87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
        # Documents have about 1,000 tokens: set sample.long_share=0.
        splits=(
            ("sample-10BT", "sample/10BT/*.parquet"),
            ("sample-100BT", "sample/100BT/*.parquet"),
            ("sample-350BT", "sample/350BT/*.parquet"),
        ),
        text="text",
        licence="ODC-By",
    ),
    Entry(
        name="pg19",
        kind="text",
        # deepmind/pg19 is a script that reads another place; this repository holds its rows.
        repository="emozilla/pg19",
        commit="c021754c8e01c5b1cc83a1f549c1f97fbbb756b8",
        splits=(
            ("train", "data/train-*.parquet"),
            ("validation", "data/validation-*.parquet"),
            ("test", "data/test-*.parquet"),
        ),
        held_out=("validation", "test"),
        text="text",
        pieces=True,
        licence="Apache-2.0",
    ),
    Entry(
        name="dolma",
        kind="text",
        elsewhere="fetch shards whose addresses stand in urls/v1_7.txt of "
        "https://huggingface.co/datasets/allenai/dolma, and name their place, as in "
        "/data/dolma/*.json.gz",
        text="text",
        pieces=True,
        licence="ODC-By",
    ),
    # Conversations.
    Entry(
        name="openthoughts-114k",
        kind="conversations",
        repository="open-thoughts/OpenThoughts-114k",
        commit="bd093c3994fd54d2390985b66988ddf282a55eb6",
        splits=TRAIN,
        system="system",
        messages="conversations",
        licence="Apache-2.0",
    ),
    Entry(
        name="openthoughts-114k-metadata",
        kind="conversations",
        repository="open-thoughts/OpenThoughts-114k",
        commit="bd093c3994fd54d2390985b66988ddf282a55eb6",
        splits=(("train", "metadata/train-*.parquet"),),
        prompt="problem",
        context="starter_code",
        thought="deepseek_reasoning",
        answer="deepseek_solution",
        licence="Apache-2.0",
    ),
    Entry(
        name="openthoughts3",
        kind="conversations",
        repository="open-thoughts/OpenThoughts3-1.2M",
        commit="61bcf9d4eb38b30295efc2021227a63cc5bb34c8",
        # 16 answers to each question. A thought that was cut off is counted as unclosed_thought.
        splits=TRAIN,
        messages="conversations",
        licence="Apache-2.0",
    ),
    Entry(
        name="bespoke-stratos-17k",
        kind="conversations",
        repository="bespokelabs/Bespoke-Stratos-17k",
        splits=TRAIN,
        system="system",
        messages="conversations",
        licence="Apache-2.0",
    ),
    Entry(
        name="s1k",
        kind="conversations",
        repository="simplescaling/s1K",
        splits=TRAIN,
        prompt="question",
        thought="thinking_trajectories.0",
        answer="attempt",
        licence="Apache-2.0",
    ),
    Entry(
        name="s1k-1.1",
        kind="conversations",
        repository="simplescaling/s1K-1.1",
        splits=TRAIN,
        prompt="question",
        # Lists of texts in an earlier commit.
        thought="deepseek_thinking_trajectory",
        answer="deepseek_attempt",
        licence="MIT",
    ),
    Entry(
        name="dolly-15k",
        kind="conversations",
        repository="databricks/databricks-dolly-15k",
        commit="bdd27f4d94b9c1f951818a7da7fd7aeea5dbff1a",
        splits=(("train", "databricks-dolly-15k.jsonl"),),
        prompt="instruction",
        context="context",
        answer="response",
        licence="CC-BY-SA-3.0",
    ),
    Entry(
        name="tulu-3-sft",
        kind="conversations",
        repository="allenai/tulu-3-sft-mixture",
        commit="b14afda60f1bbebe55d5d2fa1e4df5042f97f8be",
        splits=TRAIN,
        messages="messages",
        licence="ODC-By; parts are non-commercial, by `source`",
    ),
    Entry(
        name="nemotron-sft",
        kind="conversations",
        repository="nvidia/Llama-Nemotron-Post-Training-Dataset",
        splits=tuple(
            (split, f"SFT/{split}/*.jsonl")
            for split in ("math", "code", "science", "chat", "safety")
        ),
        system="system_prompt",
        prompt="input",
        form="messages",
        answer="output",
        keep=(("reasoning", "on"),),  # the other answers have no thought
        licence="CC-BY-4.0, and a licence per row",
    ),
    Entry(
        name="slimorca",
        kind="conversations",
        repository="Open-Orca/SlimOrca",
        splits=(("train", "oo-labeled_correct.gpt4.sharegpt.jsonl"),),
        messages="conversations",
        licence="MIT",
    ),
    # Preferences.
    Entry(
        name="ultrafeedback",
        kind="preferences",
        repository="HuggingFaceH4/ultrafeedback_binarized",
        commit="3949bf5f8c17c394422ccfab0c31ea9c20bdeb85",
        # The folder holds six splits, of which these two are pairs.
        splits=(("train", "data/train_prefs-*.parquet"), ("test", "data/test_prefs-*.parquet")),
        chosen="chosen",
        rejected="rejected",
        form="messages",
        licence="MIT",
    ),
    Entry(
        name="hh-rlhf",
        kind="preferences",
        repository="Anthropic/hh-rlhf",
        commit="09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa",
        splits=(
            ("helpful-base", "helpful-base/train.jsonl.gz"),
            ("harmless-base", "harmless-base/train.jsonl.gz"),
            ("helpful-online", "helpful-online/train.jsonl.gz"),
            ("helpful-rejection-sampled", "helpful-rejection-sampled/train.jsonl.gz"),
            ("test", "*/test.jsonl.gz"),
        ),
        chosen="chosen",
        rejected="rejected",
        form="transcript",
        licence="MIT",
    ),
    Entry(
        name="hh-golden",
        kind="preferences",
        repository="nz/anthropic-hh-golden-rlhf",
        splits=(("train", "data/train-*.parquet"), ("test", "data/test-*.parquet")),
        prompt="prompt",
        chosen="chosen",
        rejected="rejected",
        form="transcript",
    ),
    # Problems with a verified answer.
    Entry(
        name="gsm8k",
        kind="problems",
        repository="openai/gsm8k",
        commit="740312add88f781978c0658806c59bc2815b9866",
        splits=(("train", "main/train-*.parquet"), ("test", "main/test-*.parquet")),
        prompt="question",
        answer="answer",
        gold="hashes",
        verifier="math",  # 1,007 is 1007
        licence="MIT",
    ),
    Entry(
        name="math",
        kind="problems",
        # hendrycks/competition_math is disabled; this one has its rows, a folder for each subject.
        repository="EleutherAI/hendrycks_math",
        commit="21a5633873b6a120296cce3e2df9d5550074f4a3",
        splits=(("train", "*/train-*.parquet"), ("test", "*/test-*.parquet")),
        prompt="problem",
        answer="solution",
        gold="box",
        verifier="math",
        licence="MIT",
    ),
    Entry(
        name="math-12k",
        kind="problems",
        # PRM800K's split: 4,500 of MATH's test problems are in train, but none of MATH-500's.
        repository="ankner/math-500",
        splits=(("train", "data/train-*.parquet"), ("test", "data/test-*.parquet")),
        prompt="problem",
        answer="solution",
        gold="box",
        verifier="math",
    ),
    Entry(
        name="math-500",
        kind="problems",
        repository="HuggingFaceH4/MATH-500",
        commit="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        splits=(("test", "test.jsonl"),),
        prompt="problem",
        answer="answer",
        verifier="math",
    ),
    Entry(name="countdown", kind="problems", made="countdown", verifier="countdown"),
    Entry(name="sudoku-4x4", kind="problems", made="sudoku", verifier="sudoku"),
    Entry(
        name="countdown-3to4",
        kind="problems",
        repository="Jiayi-Pan/Countdown-Tasks-3to4",
        splits=TRAIN,
        prompt="Make {target} from {nums}: use each number once, with + - * / ( ).",
        answer="{nums} -> {target}",
        verifier="countdown",
    ),
    Entry(
        name="dapo-math-17k",
        kind="problems",
        # The original holds each of its problems about a hundred times.
        repository="open-r1/DAPO-Math-17k-Processed",
        splits=(("train", "en/train-*.parquet"), ("all", "all/train-*.parquet")),
        prompt="prompt",
        answer="solution",
        verifier="math",
        licence="Apache-2.0",
    ),
    Entry(
        name="mbpp",
        kind="problems",
        repository="google-research-datasets/mbpp",
        commit="4bb6404fdc6cacfda99d4ac4205087b89d32030c",
        splits=tuple(
            (split, f"full/{split}-*.parquet") for split in ("train", "test", "validation")
        ),
        held_out=("validation", "test"),
        # The name of the function is in the tests alone.
        prompt="{text}\nYour code should pass this test:\n{test_list.0}",
        answer="{test_setup_code?}\n{test_list}",
        verifier="code",
        licence="CC-BY-4.0",
    ),
    Entry(
        name="humaneval",
        kind="problems",
        repository="openai/openai_humaneval",
        commit="7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
        splits=(("test", "openai_humaneval/test-*.parquet"),),
        prompt="Complete this function:\n\n{prompt}",
        answer="{test}\ncheck({entry_point})",
        verifier="code",
        licence="MIT",
    ),
)
