"""Early stopping promotes what an exhaustive look at the rung promotes."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from sweeps.config import SweepConfig, resolved
from sweeps.early_stopping import Outcome, ParetoHalving, promoted, rungs
from sweeps.judged import JudgedStudy
from sweeps.study import BudgetStudy
from tests.sweeps.small_checkpoint import space_of


def ranks(peers: dict[int, Outcome]) -> dict[int, int]:
    """Non-dominated ranks by looking at every pair, front after front."""

    def dominates(a: Outcome, b: Outcome) -> bool:
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    left, found, rank = dict(peers), {}, 0
    while left:
        front = [n for n in left if not any(dominates(other, left[n]) for other in left.values())]
        found |= dict.fromkeys(front, rank)
        left = {n: outcome for n, outcome in left.items() if n not in front}
        rank += 1
    return found


outcomes = st.tuples(st.integers(0, 6).map(float), st.integers(1, 6).map(float))


@given(st.lists(outcomes, min_size=1, max_size=9), st.integers(2, 4))
def test_the_promoted_are_the_best_ranks_the_ends_and_the_dense_trial(
    points: list[Outcome], reduction: int
) -> None:
    peers = dict(enumerate(points))
    kept = promoted(peers, reduction)
    rank, quota = ranks(peers), -(-len(points) // reduction)
    costs = {number: outcome[1] for number, outcome in peers.items()}
    protected = {0}
    assert {min(costs.values()), max(costs.values())} <= {costs[number] for number in kept}
    ends = {n for n in kept if costs[n] in (min(costs.values()), max(costs.values()))}
    chosen = sorted(rank[number] for number in kept - protected - ends)
    best = sorted(rank.values())[:quota]
    assert all(mine <= best[-1] for mine in chosen)
    assert quota <= len(kept) <= quota + 3
    assert 0 in kept


def test_within_a_rank_the_most_spread_out_go_on() -> None:
    front = {n: (10.0 * n, 1.0 * n) for n in range(1, 9)}
    best, spread = promoted(front, 4), []
    for pair in itertools.combinations(front, 2):  # every pair that has the most accurate one
        if 8 in pair:
            spread.append((abs(front[pair[0]][1] - front[pair[1]][1]), set(pair)))
    assert best == max(spread, key=lambda each: each[0])[1]


@pytest.mark.parametrize(
    ("epochs", "reduction", "expected"),
    [(8, 2, (1, 2, 4)), (9, 3, (1, 3)), (1, 2, ()), (5, 4, (1,))],
)
def test_rungs_lie_before_the_last_epoch(
    epochs: int, reduction: int, expected: tuple[int, ...]
) -> None:
    assert rungs(epochs, reduction) == expected


CONFIG = resolved(SweepConfig(method="retrain", trials=6))
RESULTS = {0: (90.0, 1.0), 1: (80.0, 0.5), 2: (60.0, 0.2), 3: (70.0, 0.6), 4: (79.0, 0.55)}


def stopper_of(journal: Path) -> ParetoHalving:
    """Of a session that begins: rungs after 1 and 2 of 4 epochs."""
    space = space_of(CONFIG)
    study = BudgetStudy(journal, CONFIG, space, JudgedStudy(journal, CONFIG, space), 90.0)
    while len(study.running()) < CONFIG.trials:
        study.ask()
    return ParetoHalving(study, epochs=4, reduction=2)


def report(stopper: ParetoHalving, number: int, epochs: int) -> bool:
    """Whether a trial goes on that has so many epochs and the same accuracy after each."""
    top1, gmacs = RESULTS[number]
    trial = Trial("x", stub=True, config={"number": number})
    result = {"epochs": epochs, "val_top1": top1, "gmacs": gmacs}
    course = {"curve": [top1] * epochs} if epochs else {}
    decided = stopper.on_trial_result(None, trial, result | course)  # type: ignore[arg-type]
    assert (number in stopper.stopped) == (decided == TrialScheduler.STOP)
    return decided == TrialScheduler.CONTINUE


def test_a_resumed_sweep_compares_with_what_was_at_the_rung_before(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    for number in RESULTS:
        assert report(stopper_of(journal), number, 0)
    assert [n for n in RESULTS if not report(stopper_of(journal), n, 1)] == [3, 4]


def test_what_a_killed_sweep_did_not_hear_of_or_not_act_on_is_decided_when_it_goes_on(
    tmp_path: Path,
) -> None:
    journal = tmp_path / "journal"
    for number in (0, 1, 2):
        assert report(stopper_of(journal), number, 1)
    assert report(stopper_of(journal), 3, 4)  # trained to its end, it is complete
    unheard = stopper_of(journal)
    assert report(unheard, 3, 0)
    assert not report(unheard, 3, 2)  # of its first epoch nobody was told
    assert unheard.stopped == {3: 1}
    assert unheard.reason(3) == "not among the best 1/2 after 1 epochs"
    assert not report(stopper_of(journal), 4, 1)
    not_acted_on = stopper_of(journal)
    assert not report(not_acted_on, 4, 0)
    assert not_acted_on.stopped == {4: 1}
    assert report(stopper_of(journal), 1, 0)
    assert report(stopper_of(journal), 3, 0) is False
    assert report(stopper_of(journal), 1, 1)  # nothing is decided twice, whoever came meanwhile
