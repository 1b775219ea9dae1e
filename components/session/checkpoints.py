"""Checkpoints of a running stage: safetensors and JSON below `checkpoint_uri`, newest kept.

    <checkpoint_uri>/<stage>-<fingerprint>/step-00000100/
        state-00001.safetensors ...   trained weights and AdamW moments (object storage: below
                                      a folder of the process that wrote them)
        facts.json                    the loop's facts (step, skipped steps, ...), W&B's id
        metrics.jsonl                 the records up to the step
        .manifest.json                sizes and checksums, written last

The fingerprint is of the stage, its configuration and its inputs, so that one place serves all
stages and runs, and a run only ever goes on from its own. Noise and data order are functions of the
step (`model.training.draws`) and need no saving. Several processes may write the same run: each
writes data of its own, and the first manifest counts. `model.training.optimizer` says what the
tensors are.
"""

import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from components import artifact, atomic, storage, temporary
from components.failure import explain, is_of_the_system
from components.session.metrics import History
from components.storage import directories
from model.training.config import Resumable
from model.training.protocols import Snapshot

FACTS = "facts.json"
FORMAT = 1
SHARD_BYTES = 2 << 30
STEP = re.compile(r"step-(\d{8})")
DRAFT = re.compile(rf"\.step-(\d{{8}}){atomic.DRAFT.replace('.', '[.]')}")
# Fields that say where a run is computed and kept; a run may go on with other values of these.
PLACE = (
    "activation_checkpointing",
    "checkpoint_keep",
    "checkpoint_minutes",
    "checkpoint_steps",
    "checkpoint_uri",
    "micro_batch_size",
    "parallel",
)


class Checkpoints:
    """The checkpoints of one run; every process has one, the first writes."""

    def __init__(
        self, stage: str, config: Resumable, inputs: Mapping[str, Path], history: History
    ) -> None:
        """`history` is what the run's log writes to: `save` reads it, `latest` fills it."""
        assert config.checkpoint_uri is not None
        self.stage, self.config, self.history = stage, config, history
        self.processes = PartialState()
        self.location = storage.join(config.checkpoint_uri, _run(stage, config, inputs))
        self.saved_at = time.monotonic()
        self.writer = uuid.uuid4().hex[:8]
        self.damaged: set[int] = set()

    def is_due(self, step: int) -> bool:
        """By steps, by minutes, and at the end, where the outputs are still to be written."""
        config = self.config
        by_steps = config.checkpoint_steps is not None and step % config.checkpoint_steps == 0
        minutes = (time.monotonic() - self.saved_at) / 60
        return by_steps or minutes >= config.checkpoint_minutes or step == config.steps

    def save(
        self, step: int, tensors: Iterator[tuple[str, torch.Tensor]], facts: dict[str, Any]
    ) -> bool:
        """Saves a state and the history so far, and deletes the checkpoints that are too old.

        A save that the disk or the storage refuses is reported and returns False: training goes on.
        """
        if not self.processes.is_main_process:
            for _ in tensors:
                pass  # a sharded tensor is gathered by all processes together
            return True
        started = self.saved_at = time.monotonic()
        try:
            with temporary.directory() as draft:
                self._write(step, draft, tensors, facts)
        except Exception as error:
            self._report(f"checkpoint of step {step} is not saved, the next one is tried", error)
            for _ in tensors:
                pass
            return False
        try:
            self._prune()
        except Exception as error:
            self._report("older checkpoints stay until the next one is saved", error)
        self.saved_at = time.monotonic()
        self._say(f"checkpoint of step {step} saved in {self.saved_at - started:.2f} s")
        return True

    def _report(self, line: str, error: Exception) -> None:
        """Says what the disk or the storage refused; any other error is a fault and raised."""
        if not (isinstance(error, storage.StorageError) or is_of_the_system(error)):
            raise error
        self._say(f"{line}: {' '.join(explain(error).split())}")

    def _write(
        self,
        step: int,
        draft: Path,
        tensors: Iterator[tuple[str, torch.Tensor]],
        facts: dict[str, Any],
    ) -> None:
        _write_tensors(draft, tensors)
        lines = [json.dumps(record) + "\n" for record in self.history.records]
        (draft / artifact.METRICS).write_text("".join(lines))
        content = {"format": FORMAT, "wandb": self.history.wandb_id, **facts}
        (draft / FACTS).write_text(json.dumps(content))
        if step in self.damaged:
            storage.delete(self._at(step))
            self.damaged.discard(step)
        try:
            directories.put_directory(draft, self._at(step), writer=self.writer)
        except storage.AlreadyThere:
            self._say(f"checkpoint of step {step} is there already, from another process")

    def latest(self) -> Snapshot | None:
        """The newest usable state, or None where there is none; its records go to the history.

        Reports each checkpoint that is damaged. Raises ValueError where all are damaged, and
        OSError naming a local place where nothing can be written: before hours of training.
        """
        if self.processes.is_main_process:
            _try(self.location)
        folder = temporary.folder(f"checkpoint-{_broadcast(uuid.uuid4().hex)}")
        step = _broadcast(self._choose(folder) if self.processes.is_main_process else None)
        if step is None:
            return None
        if self.processes.is_local_main_process and not folder.exists():
            directories.get_directory(self._at(step), folder)  # the first of another machine
        self.processes.wait_for_everyone()
        facts = json.loads((folder / FACTS).read_text())
        lines = (folder / artifact.METRICS).read_text().splitlines()
        self.history.records[:] = [json.loads(line) for line in lines]
        self.history.wandb_id = facts["wandb"]
        return Snapshot(facts, Tensors(folder))

    def _choose(self, folder: Path) -> int | None:
        """The step of the newest usable state, which is then in `folder`."""
        steps = sorted(self._steps(), reverse=True)
        if not steps:
            self._say(f"starts at step 0: no checkpoint in {self.location}")
            return None
        for step in steps:
            try:
                directories.get_directory(self._at(step), folder)
                _check(folder, step)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                shutil.rmtree(folder, ignore_errors=True)
                self.damaged.add(step)
                self._say(f"checkpoint of step {step} is damaged and not used: {error}")
            else:
                self._say(f"goes on from step {step}, from {self._at(step)}")
                return step
        raise ValueError(
            f"{self.location}: none of {len(steps)} checkpoints is usable; "
            "delete the folder to start at step 0"
        )

    def _steps(self) -> list[int]:
        matches = map(STEP.fullmatch, directories.list_directories(self.location))
        return [int(match[1]) for match in matches if match]

    def _prune(self) -> None:
        """Deletes all but the newest that are usable, and older drafts that were not finished.

        What another process may still need stays, and whatever belongs to a person.
        """
        complete = set(self._steps())
        newest = sorted(complete - self.damaged)[-self.config.checkpoint_keep :]
        if not newest:
            return
        folders = {name.partition("/")[0] for name in storage.list_files(self.location)}
        for name in sorted(folders):
            if match := STEP.fullmatch(name):
                step = int(match[1])
                is_old = step < newest[0] or step in self.damaged
            elif match := DRAFT.fullmatch(name):
                is_old = int(match[1]) <= newest[-1]
            else:
                continue
            if is_old:
                storage.delete(storage.join(self.location, name))
        for step in newest:
            directories.sweep(self._at(step))
        directories.abort(self.location, lambda name: self._is_left(name, newest[-1]))

    def _is_left(self, name: str, newest: int) -> bool:
        """Whether the upload of a file can have no use: its step is there, or a later one is."""
        folder, _, rest = name.partition("/")
        match = STEP.fullmatch(folder)
        return bool(match) and int(folder[5:]) <= newest and not rest.startswith(self.writer)

    def _at(self, step: int) -> str:
        return storage.join(self.location, _name(step))

    def _say(self, line: str) -> None:
        print(f"{self.stage} {line}", flush=True)


class Tensors(Mapping[str, torch.Tensor]):
    """The tensors of a checkpoint, each read when it is used."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = safe_open(path, framework="pt")
            self.files |= {name: file for name in file.keys()}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def _run(stage: str, config: Resumable, inputs: Mapping[str, Path]) -> str:
    """The name of a run: the stage and a fingerprint of everything that decides its result."""
    values = dataclasses.asdict(config)
    content = {
        "config": {name: value for name, value in values.items() if name not in PLACE},
        "inputs": {name: artifact.read(path)["fingerprint"] for name, path in inputs.items()},
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{stage}-{digest[:16]}"


def _try(location: str) -> None:
    """Writes to the place and removes it again: what is refused is found before the first step."""
    if not storage.is_remote(location):
        Path(location).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=location):
            return
    name = storage.join(location, f".try-{uuid.uuid4().hex[:8]}")
    storage.write_json(name, None)
    storage.delete(name)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _broadcast(value: Any) -> Any:
    """The first process's value, in every process."""
    return broadcast_object_list([value])[0]


def _check(folder: Path, step: int) -> None:
    """Raises ValueError unless the folder holds a state of this step in this format."""
    facts = storage.read_json(folder / FACTS)
    if not isinstance(facts, dict) or not isinstance(facts.get("wandb"), str):
        raise ValueError(f"{FACTS} is not of a checkpoint")
    if (facts["format"], facts["step"]) != (FORMAT, step):
        raise ValueError(f"{FACTS} is of step {facts['step']} in format {facts['format']}")
    for number, line in enumerate((folder / artifact.METRICS).read_text().splitlines(), 1):
        if not isinstance(json.loads(line), dict):
            raise ValueError(f"{artifact.METRICS}:{number} is not a record")
    if not Tensors(folder):
        raise ValueError("it holds no tensors")


def _write_tensors(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Files of about two gigabytes, one in memory at a time."""
    shard: dict[str, torch.Tensor] = {}
    number = size = 0
    for name, tensor in tensors:
        shard[name] = tensor.cpu().contiguous()
        size += shard[name].nbytes
        if size >= SHARD_BYTES:
            number += 1
            save_file(shard, folder / f"state-{number:05d}.safetensors")
            shard, size = {}, 0
    if shard:
        save_file(shard, folder / f"state-{number + 1:05d}.safetensors")
