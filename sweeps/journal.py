"""The run's journal: one file that every change of its Optuna studies is written through to."""

import logging
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweeps.proposals import DIRECTIONS


def open_study(journal: Path, name: str) -> optuna.Study:
    """A study of accuracy (up) and GMACs (down) in the run's journal file."""
    logging.getLogger("optuna").setLevel(logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name=name,
        directions=DIRECTIONS,
        load_if_exists=True,
    )


def seed_for(seed: int, number: int) -> int:
    """A sampler's seed for the budget of a number."""
    return (seed * 1_000_003 + number) % 2**32
