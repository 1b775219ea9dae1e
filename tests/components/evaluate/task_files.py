"""Small tasks in lm_eval's own format with their data beside them: no network is needed."""

import json

SUMS = [{"q": f"{a} + {b} =", "a": str(a + b)} for a, b in ((113, 135), (311, 117), (151, 531))]
SHOTS = [{"q": "1 + 1 =", "a": "2"}, {"q": "3 + 3 =", "a": "6"}]
CHOICES = [{"q": "1 + 1 =", "choices": ["2", "3"], "gold": 0}] * 2
CODE = [{"prompt": "def f(x):\n", "test": "def check(g):\n    assert g(2) == 4", "entry": "f"}]
GENERATIVE = """task: small_sums
dataset_path: json
dataset_kwargs:
  data_files: {{train: {root}/shots.jsonl, test: {root}/sums.jsonl}}
output_type: generate_until
training_split: train
fewshot_split: train
test_split: test
num_fewshot: 2
doc_to_text: "{{{{q}}}}"
doc_to_target: "{{{{a}}}}"
generation_kwargs: {{until: ["\\n"], do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
filter_list:
  - name: strict
    filter: [{{function: regex, regex_pattern: "^([0-9]+)$"}}, {{function: take_first}}]
  - name: flexible
    filter: [{{function: regex, regex_pattern: "([0-9]+)"}}, {{function: take_first}}]
"""
MULTIPLE_CHOICE = """task: small_choice
dataset_path: json
dataset_kwargs:
  data_files: {{test: {root}/choices.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{q}}}}"
doc_to_target: gold
doc_to_choice: choices
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""
PROGRAMS = """task: small_code
dataset_path: json
dataset_kwargs:
  data_files: {{test: {root}/code.jsonl}}
unsafe_code: true
output_type: generate_until
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{test}}}}\\ncheck({{{{entry}}}})"
generation_kwargs: {{until: ["\\nclass"]}}
metric_list:
  - {{metric: !function judge.pass_at_k, aggregation: mean, higher_is_better: true, k: [1]}}
filter_list:
  - name: programs
    filter: [{{function: custom, filter_fn: !function judge.programs}}]
"""
# As lm_eval's tasks humaneval and mbpp do: the metric is loaded and tried when it is imported.
JUDGE = """import evaluate as hf_evaluate

compute_ = hf_evaluate.load("code_eval")
compute_.compute(references=["assert f(2)==5"], predictions=[["def f(a): return a"]], k=[1])


def pass_at_k(references, predictions, k=None):
    return compute_.compute(references=references, predictions=predictions, k=k)[0]


def programs(resps, docs):
    return [[doc["prompt"] + r for r in resp] for resp, doc in zip(resps, docs)]
"""
OUTSIDE = """task: small_outside
dataset_path: json
dataset_kwargs:
  data_files: {{test: {root}/code.jsonl}}
unsafe_code: true
output_type: generate_until
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{test}}}}"
process_results: !function outside.process
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""


def write(root):
    """The files below `root`, which is made."""
    root.mkdir(parents=True)
    for name, rows in (("sums", SUMS), ("shots", SHOTS), ("choices", CHOICES), ("code", CODE)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / f"{name}.jsonl").write_text(text)
    for name, text in (
        ("small_sums", GENERATIVE),
        ("small_choice", MULTIPLE_CHOICE),
        ("small_code", PROGRAMS),
        ("small_outside", OUTSIDE),
    ):
        (root / f"{name}.yaml").write_text(text.format(root=root))
    (root / "judge.py").write_text(JUDGE)
    (root / "outside.py").write_text(
        "def process(doc, results):\n    exec(results[0])\n    return {'acc': 1}\n"
    )
    return root
