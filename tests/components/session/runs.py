"""Attempts at one stage by one process or several, killed and started again."""

import json
import math
import warnings
from pathlib import Path

import pytest

from components.artifact import METRICS
from tests.components.forked import finish, start, wait
from tests.ports import free_port

SMALL = {"batch_size": 4, "micro_batch_size": 2, "max_length": 64, "examples": 50}
FULL = {**SMALL, "steps": 120, "learning_rate": 1e-3, "warmup_steps": 5}
ADAPTED = {**FULL, "steps": 30, "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}


class Runs:
    """Attempts at the same stage, each with output directories of its own."""

    def __init__(self, root, downloaded, stage="sft", base=None):
        self.root, self.downloaded, self.count = root, downloaded, 0
        self.stage, self.base = stage, base or downloaded / "model"

    def start(self, config, processes=1, environment=None, **options):
        """A new attempt, by one process or as torchrun would start several; the first of them."""
        self.count += 1
        self.place = self.root / f"attempt-{self.count}"
        self.place.mkdir()
        self.output = self.place / "output-0"
        self.started = [
            start(
                self.stage,
                config,
                output=self.place / f"output-{rank}",
                environment={**(environment or {}), **rank_environment(rank, processes, port)},
                base=self.base,
                dataset=self.downloaded / "dataset",
                trained=self.place / "trained",
                metrics=self.place / "metrics",
                **options,
            )
            for port in [free_port()]
            for rank in range(processes)
        ]
        return self.started[0]

    def complete(self, config, code=0, **options):
        """Runs to the end; what the first process printed."""
        self.start_until(lambda: False, config, **options)
        return self.finish(code)

    def start_until(self, reached, config, **options):
        """A new attempt, which has ended or `reached()` is true.

        gloo of torch 2.13 hangs now and then where two processes share a machine: its thread spins
        in the destructor of UnboundBuffer behind an all-gather. Such an attempt is started again.
        """
        for _ in range(3):
            self.start(config, **options)
            if not self._hangs(reached):
                return
        pytest.fail("gloo hung three times")

    def _hangs(self, reached):
        """Whether two minutes pass without the end and without `reached`; then all are killed."""
        if wait(self.started, reached, 120 if len(self.started) > 1 else math.inf):
            return False
        assert any(spins_in_gloo(process.pid) for process in self.started), "our own hang"
        warnings.warn("gloo hung; its processes were started again", stacklevel=2)
        self.kill()
        return True

    def kill(self):
        """SIGKILL to all processes of the last attempt."""
        for process in self.started:
            process.kill()
            process.join()

    def steps(self):
        """How many steps the last attempt has recorded."""
        file = self.place / "metrics" / METRICS
        return file.read_bytes().count(b"\n") if file.exists() else 0

    def finish(self, code=0):
        """Waits for all processes; what the first printed."""
        texts = [
            finish(process, self.place / f"output-{rank}", code)
            for rank, process in enumerate(self.started)
        ]
        return texts[0]

    def records(self):
        lines = (self.place / "metrics" / METRICS).read_text().splitlines()
        return [json.loads(line) for line in lines]

    def weights(self):
        (file,) = (self.place / "trained").glob("*.safetensors")
        return file.read_bytes()


def spins_in_gloo(process):
    """Whether a thread in which gloo computes is running: behind a real wait it would sleep."""
    threads = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/stat")]
    return any("(pt_gloo_runloop) R" in text for text in threads)


def rank_environment(rank, processes, port):
    """What torchrun tells each process of one machine."""
    if processes == 1:
        return {}
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }


def curve(records):
    """What must not depend on interruptions: everything but speed and memory."""
    timed = ("tokens_per_second", "peak_memory_bytes")
    return [{key: row[key] for key in row if key not in timed} for row in records]


def kill_with_a_state(runs, place, config, **options):
    """An attempt, of which all processes are killed once a state of it is kept."""
    runs.start_until(lambda: steps_in(place), config, **options)
    runs.kill()
    assert steps_in(place)


def steps_in(place):
    return sorted(int(path.name[5:]) for path in place.glob("*/step-*"))
