"""The store away for a minute during training: training goes on, and the checkpoint follows.

`tests/components/session/test_resume_s3.py` has a save that is given up, and the next that follows.
"""

import os
import threading
import time

from tests.components.conftest import point_at
from tests.components.forked import wait_for_steps
from tests.components.session.runs import ADAPTED, Runs, curve
from tests.components.storage.faulty_server import Faulty, reset

MINUTE = 60.0


def test_the_store_is_away_for_a_minute(tmp_path, downloaded, nanio, monkeypatch):
    """The state of step 10 is on its way meanwhile; only the save of step 20 waits for it."""
    point_at(nanio, monkeypatch)
    runs = Runs(tmp_path, downloaded)
    runs.complete(ADAPTED)
    straight = (runs.weights(), curve(runs.records()))
    away, place = threading.Event(), f"s3://bucket/minute-{os.getpid()}"
    with Faulty(nanio, lambda handler, ask: reset() if away.is_set() else ask()) as server:
        config = {**ADAPTED, "checkpoint_uri": place, "checkpoint_steps": 10}
        process = runs.start(config, environment={"AWS_ENDPOINT_URL": server.endpoint})
        wait_for_steps(process, runs.place / "metrics", 7)
        away.set()
        back = time.monotonic() + MINUTE
        wait_for_steps(process, runs.place / "metrics", 19)
        assert time.monotonic() < back and process.is_alive(), runs.output.read_text()
        time.sleep(max(back - time.monotonic(), 0))
        away.clear()
        text = runs.finish()
    assert "is tried again for up to" in text and "is not saved" not in text
    assert all(f"checkpoint of step {step} saved in" in text for step in (10, 20, 30))
    assert (runs.weights(), curve(runs.records())) == straight
