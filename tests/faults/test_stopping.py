"""Ctrl-C once asks every training to stop; twice ends at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slim import StoppedTraining
from sweeps import stopping
from sweeps.course import course
from sweeps.stopping import INTERRUPTED, StopRequest, watch
from tests.faults.runs import ROOT
from tests.slim.trainings import curve, training_with_dropout


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_one_asks_and_the_second_one_ends(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    stop = StopRequest(tmp_path / "stop")
    with stop.by_signal():
        assert not watch(tmp_path / "stop")()
        interrupt()
        assert stop.made
        assert watch(tmp_path / "stop")()
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert signal.getsignal(signal.SIGINT) is before


def test_what_does_not_stop_in_time_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "GRACE", 0.05)
    stop = StopRequest(tmp_path / "stop")
    with stop.by_signal():
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(60)


def test_a_request_of_an_earlier_session_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    assert not StopRequest(tmp_path / "stop").made
    assert not watch(tmp_path / "stop")()


def test_a_training_that_is_asked_writes_its_state_and_goes_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "LOOK_EVERY", 0.0)
    state, whole = tmp_path / "dense.pt", training_with_dropout()
    expected = list(course(whole, tmp_path / "whole.pt"))
    stop, stopped = StopRequest(tmp_path / "stop"), training_with_dropout()
    epochs = course(stopped, state)
    assert next(epochs).epoch == 1
    stop.make()
    with pytest.raises(StoppedTraining):
        next(epochs)
    StopRequest(tmp_path / "stop")
    resumed = training_with_dropout(weights=1)
    told = list(course(resumed, state))
    assert [(epoch.epoch, epoch.before) for epoch in told] == [(1, 1), (2, 0), (3, 0)]
    assert [(e.loss, e.val_top1) for e in told] == [(e.loss, e.val_top1) for e in expected]
    assert curve(resumed) == curve(whole)


STUCK = """
import hashlib
from pathlib import Path
from sweeps import stopping
stopping.GRACE = stopping.LAST = 0.1
with stopping.StopRequest(Path("stop")).by_signal("resume me"):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # returns to Python when it is done
"""


def test_a_main_thread_that_hears_nothing_is_ended_with_the_last_words(tmp_path: Path) -> None:
    stuck = subprocess.Popen(
        [sys.executable, "-c", STUCK],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert stuck.stdout is not None
    assert stuck.stdout.readline() == "ready\n"
    stuck.terminate()
    _, told = stuck.communicate(timeout=300)
    assert (stuck.returncode, told) == (INTERRUPTED, "-c: resume me\n")
    assert (tmp_path / "stop").exists()  # so trainings were asked


def test_it_is_ended_where_nobody_reads_the_last_words(tmp_path: Path) -> None:
    stuck = subprocess.Popen(
        [sys.executable, "-c", STUCK],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert stuck.stdout is not None
    assert stuck.stderr is not None
    assert stuck.stdout.readline() == b"ready\n"
    stuck.stderr.close()  # as `tee` does when the signal ends it first
    stuck.terminate()
    assert stuck.wait(timeout=300) == INTERRUPTED
    stuck.stdout.close()
