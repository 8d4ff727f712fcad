"""The run's journal: one file that every change of its Optuna studies is written through to."""

import logging
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from sweeps.proposals import DIRECTIONS
from sweeps.space import DIMENSIONS
from sweeps.torn_line import drop_torn_line


def open_study(journal: Path, name: str) -> optuna.Study:
    """A study of accuracy (up) and GMACs (down) in the run's journal file."""
    logging.getLogger("optuna").setLevel(logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    mend(journal)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name=name,
        directions=DIRECTIONS,
        load_if_exists=True,
    )


def seed_for(seed: int, number: int) -> int:
    """A sampler's seed for the budget of a number."""
    return (seed * 1_000_003 + number) % 2**32


def mend(journal: Path) -> None:
    """Make good what a killed driver, the one writer, leaves: half a line, and the lock."""
    drop_torn_line(journal)
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)


def finish_asking(study: optuna.Study, trial: FrozenTrial) -> None:
    """Give a trial that was enqueued, but not wholly asked, the budget it was enqueued with."""
    if trial.state == TrialState.WAITING:
        study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
    asked = optuna.Trial(study, trial._trial_id)
    for name in DIMENSIONS:
        asked.suggest_float(name, 0.0, 1.0)
