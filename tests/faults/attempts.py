"""A stage's command, killed at random moments again and again, and compared with one left alone."""

import os
import random
import shutil
import signal
import tempfile
import time

from components import PROJECT, artifact, atomic
from tests.components.forked import finish, start

KILLS = 20
LATE = 1.2  # of the calm time: some moments are after the end


def own_temporary_files():
    """The fork server has looked for the directory already; TMPDIR is to count."""
    tempfile.tempdir = None


class Attempts:
    """The same command again and again: `outputs` below `root`, temporary files in one folder."""

    def __init__(self, root, stage, config, inputs, outputs, environment=None, store=None):
        self.root, self.stage, self.config, self.inputs = root, stage, config, inputs
        self.outputs, self.store, self.count = outputs, store, 0
        self.temporary = root / "tmp"
        self.temporary.mkdir(parents=True)
        self.environment = {"TMPDIR": str(self.temporary), **(environment or {})}

    def start(self, place="out", config=None):
        self.count += 1
        paths = {name: self.root / place / name for name in self.outputs}
        return start(
            self.stage,
            config or self.config,
            output=self.text,
            environment=self.environment,
            patch=own_temporary_files,
            **self.inputs,
            **paths,
        )

    @property
    def text(self):
        return self.root / f"said-{self.count}"

    def complete(self, place="out", config=None):
        """Runs to the end; returns the seconds."""
        started = time.monotonic()
        finish(self.start(place, config), self.text)
        return time.monotonic() - started

    def kill(self, seconds):
        """Whether an attempt was killed after so many seconds, rather than complete by then."""
        process = self.start()
        process.join(seconds)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), self.text.read_text()
        return process.exitcode != 0

    def survive(self, calm, seed, kills=KILLS):
        """Kills at random moments; whatever has a record then is whole. Completes in the end."""
        rng, killed = random.Random(seed), 0
        while killed < kills:
            killed += self.kill(rng.uniform(0, LATE * calm))
            records = [self.root / "out" / name / artifact.RECORD for name in self.outputs]
            whole = [artifact.verify(record.parent) for record in records if record.exists()]
            if len(whole) == len(records):  # the same command would be refused
                self.begin_anew()
        self.complete()
        self.check_left()

    def begin_anew(self):
        shutil.rmtree(self.root / "out")
        if self.store is not None:
            self.store()

    def check_left(self):
        """Nothing is left of all the attempts but the outputs."""
        assert list(self.temporary.glob(f"{PROJECT}-*/*")) == []
        for pattern in (f"**/*{atomic.DRAFT}", f"**/{artifact.CLAIM}", "**/answers-*"):
            assert not list((self.root / "out").glob(pattern)), pattern

    def files(self, place, output):
        """The content of every file of an output but its record, by name."""
        folder = self.root / place / output
        return {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name != artifact.RECORD
        }
