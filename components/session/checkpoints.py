"""Checkpoints of a running stage: safetensors and JSON below `checkpoint_uri`, newest kept.

    <checkpoint_uri>/<stage>-<fingerprint>/step-00000100/
        state-00001.safetensors ...   trained weights and AdamW moments (object storage: below
                                      a folder of the process that wrote them)
        facts.json                    the loop's facts (step, skipped steps, ...), W&B's id
        metrics.jsonl                 the records up to the step
        .manifest.json                sizes and checksums, written last

`places` says how a run's folder is named. Training waits while a state is copied to memory and not
while it is written and sent (`states`). Noise and data order are functions of the step
(`model.training.draws`) and need no saving. Several processes may write the same run: each
writes data of its own, and the first manifest counts. `model.training.optimizer` says what the
tensors are.
"""

import dataclasses
import errno
import json
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
from safetensors import SafetensorError

from components import artifact, storage, temporary
from components.failure import as_line, explain, is_of_the_system
from components.session import places, states
from components.session.sinks import History
from components.storage import directories
from model.training.config import Resumable
from model.training.protocols import Snapshot

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Checkpoints:
    """The checkpoints of one run; every process has one, the first writes."""

    def __init__(
        self, stage: str, config: Resumable, inputs: Mapping[str, Path], history: History
    ) -> None:
        """`history` is what the run's log writes to: `save` reads it, `latest` fills it."""
        assert config.checkpoint_uri is not None
        self.stage, self.config, self.history = stage, config, history
        self.processes = PartialState()
        fingerprints = [artifact.read(path)["fingerprint"] for path in inputs.values()]
        run = places.run_of(stage, dataclasses.asdict(config), fingerprints)
        self.location = storage.join(config.checkpoint_uri, run)
        self.saved_at = time.monotonic()
        self.writer = uuid.uuid4().hex[:8]
        self.damaged: set[int] = set()
        self.newest = 0  # step of the newest state that is saved
        self.delivery: states.Delivery | None = None

    def is_due(self, step: int) -> bool:
        """By steps, by minutes, and at the end, where the outputs are still to be written.

        What is due by minutes alone does not wait for a state that is still on its way.
        """
        config = self.config
        by_steps = config.checkpoint_steps is not None and step % config.checkpoint_steps == 0
        is_free = self.delivery is None or self.delivery.is_over
        minutes = (time.monotonic() - self.saved_at) / 60
        by_minutes = is_free and minutes >= config.checkpoint_minutes
        return by_steps or by_minutes or step == config.steps

    def save(
        self, step: int, tensors: Iterator[tuple[str, torch.Tensor]], facts: dict[str, Any]
    ) -> None:
        """Copies a state and the history so far, which are then saved while training goes on.

        A save that the disk or the storage refuses is reported; training goes on to the next one.
        """
        if not self.processes.is_main_process:
            for _ in tensors:
                pass  # a sharded tensor is gathered by all processes together
            self.newest = step
            return
        self.settle()
        started = self.saved_at = time.monotonic()
        content = {"format": states.FORMAT, "wandb": self.history.wandb_id, **facts}
        text, records = json.dumps(content), [*self.history.records]
        delivery = states.Delivery(lambda own: self._deliver(step, own, text, records, started))
        delivery.take(tensors)
        self.delivery = delivery

    def settle(self) -> int:
        """Waits until no state is on its way; returns the step of the newest that is saved, or 0.

        Processes but the first only know what was to be saved.
        """
        delivery, self.delivery = self.delivery, None
        if delivery is not None:
            delivery.wait()
        return self.newest

    def _deliver(
        self,
        step: int,
        delivery: states.Delivery,
        facts: str,
        records: list[dict[str, Any]],
        started: float,
    ) -> None:
        """Writes and sends a state, and deletes the checkpoints that are too old."""
        try:
            with temporary.directory() as draft:
                states.write(draft, delivery)
                lines = [json.dumps(record) + "\n" for record in records]
                (draft / artifact.METRICS).write_text("".join(lines))
                (draft / states.FACTS).write_text(facts)
                self._send(step, draft)
        except Exception as error:
            return self._report(
                f"checkpoint of step {step} is not saved, the next one is tried", error
            )
        self.newest = step
        whole = time.monotonic() - started
        self._say(
            f"checkpoint of step {step} saved in {whole:.2f} s; "
            f"training waited for {delivery.waited:.2f} s of it"
        )
        try:
            self._prune()
        except Exception as error:
            self._report("older checkpoints stay until the next one is saved", error)

    def _report(self, line: str, error: Exception) -> None:
        """Says what the disk or the storage refused; any other error is a fault and raised."""
        if not (isinstance(error, storage.StorageError) or is_of_the_system(error)):
            raise error
        self._say(f"{line}: {as_line(explain(error))}")

    def _send(self, step: int, draft: Path) -> None:
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
        OSError or StorageError naming a place that cannot be read or written: before hours of
        training.
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
        self.newest = step
        facts = json.loads((folder / states.FACTS).read_text())
        lines = (folder / artifact.METRICS).read_text().splitlines()
        self.history.records[:] = [json.loads(line) for line in lines]
        self.history.wandb_id = facts["wandb"]
        return Snapshot(facts, states.Tensors(folder))

    def _choose(self, folder: Path) -> int | None:
        """The step of the newest usable state, which is then in `folder`."""
        steps = sorted(self._steps(), reverse=True)
        if not steps:
            self._say(f"starts at step 0: no checkpoint in {self.location}")
            return None
        for step in steps:
            try:
                directories.get_directory(self._at(step), folder)
                states.check(folder, step)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                if not _is_damage(error):
                    raise
                shutil.rmtree(folder, ignore_errors=True)
                self.damaged.add(step)
                self._say(
                    f"checkpoint of step {step} is damaged and not used: {as_line(explain(error))}"
                )
            else:
                self._say(f"goes on from step {step}, from {self._at(step)}")
                return step
        raise ValueError(
            f"{self.location}: none of {len(steps)} checkpoints is usable; "
            "delete the folder to start at step 0"
        )

    def _steps(self) -> list[int]:
        return places.steps(self.location)

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
            if match := places.STEP.fullmatch(name):
                step = int(match[1])
                is_old = step < newest[0] or step in self.damaged
            elif match := places.DRAFT.fullmatch(name):
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
        match = places.STEP.fullmatch(folder)
        return bool(match) and int(folder[5:]) <= newest and not rest.startswith(self.writer)

    def _at(self, step: int) -> str:
        return storage.join(self.location, _name(step))

    def _say(self, line: str) -> None:
        print(f"{self.stage} {line}", flush=True)


def _try(location: str) -> None:
    """Writes to the place, reads and removes that: each missing right is named before a step."""
    if not storage.is_remote(location):
        Path(location).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=location):
            return
    name = storage.join(location, f".try-{uuid.uuid4().hex[:8]}")
    storage.write_json(name, None)
    try:
        storage.read_json(name)
    finally:
        storage.delete(name)
    directories.abort(location, lambda name: False)  # only asks for them, as pruning will


def _is_damage(error: Exception) -> bool:
    """Whether a checkpoint is wrong, rather than the way to it or the disk that it is copied to."""
    if isinstance(error, storage.Damaged):
        return True
    if isinstance(error, (storage.Refused, storage.Unavailable, PermissionError)):
        return False
    return not isinstance(error, OSError) or error.errno not in NO_ROOM


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _broadcast(value: Any) -> Any:
    """The first process's value, in every process."""
    return broadcast_object_list([value])[0]
