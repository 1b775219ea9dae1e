"""The architecture, executable: files, signatures and which way imports may point."""

import ast
import importlib
import inspect
import sys
import typing
from pathlib import Path

import pytest

from components import artifact
from tests.components import readmes

ROOT = Path(__file__).parents[2]
STAGES = sorted(path.parent.name for path in (ROOT / "components").glob("*/stage.py"))
FILES = ("README.md", "config.py", "component.py", "stage.py", "__main__.py")
NETWORK = {
    "huggingface_hub",
    "requests",
    "httpx",
    "httpx2",
    "urllib",
    "urllib3",
    "boto3",
    "socket",
    "openai",
    "kubernetes",
}
ALLOWED = {
    "storage/connection.py": {"boto3"},
    "storage/hub.py": {"huggingface_hub", "httpx2"},
    "rewards/judge.py": {"openai"},
    "session/mlflow.py": {"urllib"},
    "session/trainer.py": {"urllib"},
    "trainjob/cluster.py": {"kubernetes", "urllib3"},
}


def imports(path):
    """Top-level packages and dotted modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def packages(path):
    return {name.split(".")[0] for name in imports(path)}


def test_stages():
    assert (
        sorted(
            [
                "download",
                "pretrain",
                "merge",
                "sft",
                "dpo",
                "grpo",
                "evaluate",
                "report",
                "preflight",
                "release",
                "trainjob",
            ]
        )
        == STAGES
    )


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("file", FILES)
def test_five_files(stage, file):
    assert (ROOT / "components" / stage / file).is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_component_mirrors_run(stage):
    component = getattr(importlib.import_module(f"components.{stage}.component"), stage)
    run = importlib.import_module(f"components.{stage}.stage").run
    hints = typing.get_type_hints(run, include_extras=True)
    names = set(inspect.signature(run).parameters)
    kinds = (artifact.Output, artifact.OutputFile, artifact.Parameter)
    outputs = {name for name in names if hints[name] in kinds}
    specification = component.component_spec
    assert set(specification.outputs or {}) == outputs
    # KFP's container components take no list of artifacts: each adapter is an input of its own.
    lists = {name for name in names if hints[name] == artifact.Inputs}
    # A pipeline writes what its graph takes for adapters into preflight's command.
    fixed = {"graph"} if stage == "preflight" else set()
    assert set(specification.inputs or {}) == names - outputs - lists - fixed


@pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo", "grpo", "evaluate", "merge"])
def test_adapters_are_inputs_and_one_flag(stage):
    module = importlib.import_module(f"components.{stage}.component")
    plain, two = module.component(), module.component(2).component_spec
    added = {"adapter_0", "adapter_1"}
    assert set(two.inputs) - set(plain.component_spec.inputs) == added
    words = two.implementation.container.args
    place = words.index("--adapters")
    assert [word.input_name for word in words[place + 1 : place + 3]] == sorted(added)
    assert "--adapters" not in plain.component_spec.implementation.container.args


@pytest.mark.parametrize("stage", STAGES)
def test_stages_share_rooms_and_not_each_other(stage):
    """Their configurations may be read, and DPO pads dialogues as SFT does.

    Preflight asks for claims as trainjob does, and imports that module by its name.
    """
    for path in (ROOT / "components" / stage).glob("*.py"):
        others = {
            name
            for name in imports(path)
            for other in STAGES
            if other != stage and f"{name}.".startswith(f"components.{other}.")
        }
        allowed = {"components.sft.dialogues"} if stage == "dpo" else set()
        assert {name for name in others if ".config" not in name} <= {
            full for name in allowed for full in (name, f"{name}.pad_dialogues")
        }, path


@pytest.mark.parametrize("room", [*STAGES, "data", "rewards"])
def test_config_is_light(room):
    allowed = set(sys.stdlib_module_names) | {"components", "model"}
    path = ROOT / "components" / room / "config.py"
    assert packages(path) <= allowed
    own = {name for name in imports(path) if name.split(".")[0] in ("components", "model")}
    light = ("model.options", "model.training.config", "components.evaluate.presets")
    assert all(name.startswith(light) or ".config" in name for name in own)


@pytest.mark.parametrize("stage", STAGES)
def test_layers(stage):
    folder = ROOT / "components" / stage
    assert "torch" not in packages(folder / "component.py")
    assert "kfp" not in packages(folder / "stage.py")


MODEL = [
    "adapter_settings",
    "attention",
    "batching",
    "cache",
    "canvas",
    "checkpoint",
    "choices",
    "config",
    "config_keys",
    "cross_entropy",
    "cuda_graph",
    "diffusion",
    "estimators",
    "likelihood",
    "llada",
    "lora",
    "merging",
    "noising",
    "options",
    "preference",
    "projection",
    "quantisation",
    "remasking",
    "rope",
    "safetensors_files",
    "sampler",
    "tokenizer",
    "window",
]
TRAINING = [
    "config",
    "draws",
    "figures",
    "loop",
    "optimizer",
    "preemption",
    "processes",
    "protocols",
    "sizing",
    "throughput",
]
LOOSE = [
    "adapted",
    "artifact",
    "atomic",
    "claimants",
    "cli",
    "coerce",
    "container",
    "drawing",
    "executor",
    "failure",
    "names",
    "outputs",
    "prestop",
    "records",
    "references",
    "selftest",
    "signature",
    "temporary",
    "written",
]
ROOMS = {"data", "rewards", "session", "storage"}
MACHINE = {"os.environ", "signal", "socket", "subprocess"}


def modules(folder):
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def test_rooms():
    """Every module has its room: what lies loose is the model, or the contract of a stage."""
    assert modules(ROOT / "model") == sorted(MODEL)
    assert modules(ROOT / "model" / "training") == TRAINING
    assert modules(ROOT / "components") == LOOSE
    folders = {path.parent.name for path in (ROOT / "components").glob("*/__init__.py")}
    assert folders == {*STAGES, *ROOMS}


def test_page_of_the_components_names_every_room():
    page = (ROOT / "components" / "README.md").read_text()
    names = [f"[{stage}]({stage}/README.md)" for stage in STAGES]
    names += [f"`{name}.py`" for name in LOOSE] + [f"`{room}/`" for room in sorted(ROOMS)]
    assert [name for name in names if name not in page] == []


def test_model_leaves_the_machine_alone():
    """Processes, signals, sockets and the environment are the components' business."""
    for path in (ROOT / "model").rglob("*.py"):
        used = imports(path) | {
            ast.unparse(node)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
        }
        expected = {"signal"} if path.stem == "preemption" else set()
        assert used & MACHINE == expected, path


def test_model_is_pure():
    for path in (ROOT / "model").rglob("*.py"):
        used = packages(path)
        assert not used & {"kfp", "components", "pipelines", "wandb"}, path
        # The one name from huggingface_hub plans shards; it opens no connection.
        hub = {name for name in imports(path) if name.startswith("huggingface_hub.")}
        assert hub <= {"huggingface_hub.split_torch_state_dict_into_shards"}, path
        assert not used & (NETWORK - {"huggingface_hub"}), path


def test_few_files_open_connections():
    for path in (ROOT / "components").rglob("*.py"):
        allowed = ALLOWED.get(path.relative_to(ROOT / "components").as_posix(), set())
        assert not packages(path) & (NETWORK - allowed), path


def test_components_do_not_know_the_pipeline():
    for path in (ROOT / "components").rglob("*.py"):
        assert "pipelines" not in packages(path), path


@pytest.mark.parametrize("stage", STAGES)
def test_readme_lists_every_field(stage):
    """Type, default and meaning of every field, as the code has them."""
    text = (ROOT / "components" / stage / "README.md").read_text()
    expected = "" if stage == "preflight" else readmes.tables(stage)
    assert expected in text, f"python -m tests.components.readmes writes\n{expected}"
    assert text.count("\n| `") == expected.count("\n| `")
    assert f"python -m components.{stage}" in text and "docker run" in text
