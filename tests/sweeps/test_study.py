"""The budget study asks, resumes and ends trials as promised."""

from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from slim import Budget
from sweeps.config import SpaceConfig, SweepConfig, resolved
from sweeps.front import most_gain_first, non_dominated, pareto_front
from sweeps.judged import JudgedStudy
from sweeps.regained import Regained
from sweeps.study import BudgetStudy, Proposal
from sweeps.trials import COMPLETE, FAILED, PRUNED, TrialRow
from tests.sweeps.small_checkpoint import space_of
from tests.sweeps.test_judged import judge, judged_row

CONFIG = resolved(
    SweepConfig(method="retrain", trials=8, seed=3, space=SpaceConfig(uniform=[0.5, 0.3]))
)
JUDGING = resolved(SweepConfig(trials=8, seed=3))
JUDGING = replace(JUDGING, judge=replace(JUDGING.judge, budgets=40))
DENSE_TOP1, CHANCE = 88.0, 10.0


def begun(journal: Path, config: SweepConfig) -> BudgetStudy:
    """A study of the small model, on what the journal has of judged budgets."""
    space = space_of(config)
    return BudgetStudy(journal, config, space, JudgedStudy(journal, config, space), DENSE_TOP1)


def row(proposal: Proposal, state: str = COMPLETE) -> TrialRow:
    """A made-up outcome: accuracy grows with cost."""
    budget = proposal.budget
    gmacs = budget.tokens * (budget.mhsa + 2 * budget.mlp)
    return TrialRow(
        trial=proposal.number,
        state=state,
        tokens=budget.tokens,
        mhsa=budget.mhsa,
        mlp=budget.mlp,
        gmacs=gmacs,
        params_m=1.0,
        val_top1=90 * gmacs / (gmacs + 0.1),
        test_top1=None,
        epochs=2,
        seconds=1.0,
    )


def run(study: BudgetStudy, most: int = 100) -> list[Budget]:
    budgets = []
    while len(budgets) < most and (proposal := study.ask()) is not None:
        budgets.append(proposal.budget)
        study.complete(row(proposal))
    return budgets


def test_the_dense_budget_comes_first_then_the_uniform_ones(tmp_path: Path) -> None:
    budgets = run(begun(tmp_path / "journal", CONFIG))
    assert len(budgets) == 8
    assert budgets[:3] == [Budget(1, 1, 1), Budget(0.5, 0.5, 0.5), Budget(0.3, 0.3, 0.3)]
    assert len(set(budgets)) == 8


def test_sampled_budgets_stay_in_the_space(tmp_path: Path) -> None:
    space = SpaceConfig(tokens_min=0.6, mhsa_min=0.7, mlp_min=0.8, uniform=[])
    for budget in run(begun(tmp_path / "journal", replace(CONFIG, space=space))):
        assert budget.tokens >= 0.6
        assert budget.mhsa >= 0.7
        assert budget.mlp >= 0.8


def test_a_dimension_whose_smallest_budget_is_1_stays_whole(tmp_path: Path) -> None:
    space = SpaceConfig(tokens_min=1.0, mhsa_min=0.2, mlp_min=0.2, uniform=[0.5])
    budgets = run(begun(tmp_path / "journal", replace(CONFIG, space=space)))
    assert budgets[1] == Budget(1, 0.5, 0.5)
    assert {budget.tokens for budget in budgets} == {1.0}
    assert len({(budget.mhsa, budget.mlp) for budget in budgets}) == 8


@pytest.mark.parametrize("stopped_after", [1, 3, 5, 7])
def test_a_resumed_study_asks_what_an_uninterrupted_one_asks(
    tmp_path: Path, stopped_after: int
) -> None:
    whole = run(begun(tmp_path / "whole", CONFIG))
    first = run(begun(tmp_path / "halves", CONFIG), most=stopped_after)
    second = run(begun(tmp_path / "halves", CONFIG))
    assert first + second == whole


@pytest.mark.parametrize("stopped_after", [3, 6, 7])
def test_a_resumed_study_of_judged_budgets_asks_so_too(tmp_path: Path, stopped_after: int) -> None:
    for name in ("whole", "halves"):
        judge(tmp_path / name, JUDGING)
    whole = told(begun(tmp_path / "whole" / "journal", JUDGING), agree=True)
    halves = tmp_path / "halves" / "journal"
    first = told(begun(halves, JUDGING), agree=True, most=stopped_after)
    assert first + told(begun(halves, JUDGING), agree=True) == whole
    assert len(begun(halves, JUDGING).first) < len(whole) == 8


def test_an_interrupted_trial_is_asked_again_under_its_number(tmp_path: Path) -> None:
    study = begun(tmp_path / "journal", CONFIG)
    run(study, most=4)
    lost = study.ask()
    assert lost is not None
    again = begun(tmp_path / "journal", CONFIG)
    assert again.remaining() == 4
    assert again.ask() == lost
    again.complete(row(lost))
    run(again)
    assert [r.trial for r in again.rows()] == list(range(8))


def test_another_seed_asks_other_budgets(tmp_path: Path) -> None:
    ours = run(begun(tmp_path / "a", CONFIG))
    theirs = run(begun(tmp_path / "b", replace(CONFIG, seed=4)))
    assert ours[:3] == theirs[:3]
    assert ours[3:] != theirs[3:]


@pytest.mark.parametrize(
    ("state", "told"), [(PRUNED, TrialState.PRUNED), (FAILED, TrialState.FAIL)]
)
def test_an_unfinished_trial_is_never_complete_nor_on_the_front(
    tmp_path: Path, state: str, told: TrialState
) -> None:
    study = begun(tmp_path / "journal", CONFIG)
    proposal = study.ask()
    assert proposal is not None
    best = replace(row(proposal, state), val_top1=100.0, gmacs=0.0)
    study.close(best, "because")
    run(study)
    assert study.study.trials[0].state == told
    assert study.study.trials[0].values is None
    assert study.rows()[0] == best
    assert 0 not in [r.trial for r in pareto_front(study.rows())]


def test_the_front_keeps_equals_and_drops_the_dominated() -> None:
    proposal = Proposal(0, Budget())
    points = [(1.0, 90.0), (0.5, 90.0), (0.5, 90.0), (0.5, 80.0), (0.2, 70.0), (0.2, 75.0)]
    rows = [
        replace(row(proposal), trial=n, gmacs=gmacs, val_top1=accuracy)
        for n, (gmacs, accuracy) in enumerate(points)
    ]
    assert [r.trial for r in pareto_front(rows)] == [5, 1, 2]
    assert pareto_front([]) == []


def test_the_sweep_starts_from_the_judged_front_and_the_sampler_goes_on(tmp_path: Path) -> None:
    judged = judge(tmp_path, JUDGING)
    study = begun(tmp_path / "journal", JUDGING)
    budgets = run(study)
    assert budgets[0] == Budget(1, 1, 1)
    untold = Regained.untold(judged.pooled(), study.space, DENSE_TOP1)
    front = non_dominated([untold.foretold(one) for one in judged.pooled()])
    on_front = [one.budget for one in front]
    dense = study.space.cost(Budget()).macs / 1e9
    gains = [one.budget for one in most_gain_first(front, CHANCE, dense, 5)]
    assert budgets[1:6] == gains != on_front[:5]
    assert gains != [one.budget for one in most_gain_first(judged.front(), CHANCE, dense, 5)]
    assert not any(budget in on_front for budget in budgets[6:])
    assert len({study.space.identity(budget) for budget in budgets}) == 8


def test_the_sampler_knows_judged_networks_as_training_would_leave_them(tmp_path: Path) -> None:
    judge(tmp_path, JUDGING)
    study = begun(tmp_path / "journal", JUDGING)
    known = {one.budget: one for one in study.judged.pooled()}
    untold = Regained.untold(list(known.values()), study.space, DENSE_TOP1).told_by([])
    assert untold.tokens_alone
    before = {one.budget: one.val_top1 for one in study.known()}
    assert before == {budget: untold.foretold(one).val_top1 for budget, one in known.items()}
    tried = [proposal for _ in range(3) if (proposal := study.ask())]
    pairs = []
    for proposal in tried:
        dense = proposal.budget == Budget()
        top1 = DENSE_TOP1 if dense else 70.0
        ended = replace(row(proposal), val_top1=top1, epochs=0 if dense else 2)
        study.complete(ended, untrained_top1=None if dense else 1.0)
        if not dense:
            pairs.append((known[proposal.budget], top1))
    told = untold.told_by(pairs)
    assert told.left != pytest.approx(untold.left)
    after = {one.budget: one.val_top1 for one in study.known()}
    assert len(after) == len(known)
    for budget in set(after) - {proposal.budget for proposal in tried}:
        assert after[budget] == told.foretold(known[budget]).val_top1


def test_what_is_lost_is_lost_to_the_dense_model_where_limits_keep_it_out_of_judging(
    tmp_path: Path,
) -> None:
    limit = 0.3 * space_of(JUDGING).cost(Budget()).macs / 1e9
    config = replace(JUDGING, max_gmacs=limit)
    judged = judge(tmp_path, config)
    assert Budget() not in {one.budget for one in judged.rows()}
    untold = Regained.untold(judged.pooled(), judged.space, DENSE_TOP1).told_by([])
    assert untold.dense == DENSE_TOP1
    study = begun(tmp_path / "journal", config)
    assert study.known() == [untold.foretold(one) for one in judged.pooled()]


def test_trials_added_later_take_the_judged_networks_that_are_left(tmp_path: Path) -> None:
    judge(tmp_path, JUDGING)
    few = run(begun(tmp_path / "journal", JUDGING))
    study = begun(tmp_path / "journal", replace(JUDGING, trials=14))
    more = run(study)
    assert len(study.first) > 8
    assert few[:6] == study.first[:6]
    tried = networks(study, few)
    left = [one for one in study.first[6:] if study.space.identity(one) not in tried]
    assert more[: len(left)] == left
    assert len(networks(study, few + more)) == 14


def networks(study: BudgetStudy, budgets: list[Budget]) -> set[tuple[int, ...]]:
    return {study.space.identity(budget) for budget in budgets}


def test_each_network_of_a_small_space_is_trained_once_and_then_the_sweep_ends(
    tmp_path: Path,
) -> None:
    dense = space_of(CONFIG).cost(Budget()).macs / 1e9
    small = replace(CONFIG.space, tokens_min=1.0, mlp_min=1.0)
    config = replace(CONFIG, space=small, target_gmacs=f"{0.9 * dense},{0.95 * dense}")
    study = begun(tmp_path / "journal", config)
    budgets = run(study)
    assert len(networks(study, budgets)) == len(budgets) == 3
    assert study.remaining() == 0
    assert not study.may_grow()
    resumed = begun(tmp_path / "journal", config)
    assert resumed.remaining() == 0
    assert resumed.ask() is None


def told(study: BudgetStudy, agree: bool, most: int = 100) -> list[Budget]:
    """Train what is asked; judging tells the order, or the opposite of it.

    What a judged network has before its training, on all of val, is not what it was judged by.
    """
    known = networks(study, [one.budget for one in study.judged.rows()])
    budgets: list[Budget] = []
    while len(budgets) < most and (proposal := study.ask()) is not None:
        budgets.append(proposal.budget)
        judged = judged_row(study.judged, proposal.number, proposal.budget).val_top1
        ended = replace(row(proposal), val_top1=judged + 5 if agree else 100 - judged)
        was_judged = study.space.identity(proposal.budget) in known
        study.complete(ended, untrained_top1=0.0 if was_judged else judged)
    return budgets


def test_more_is_trained_where_judging_misled(tmp_path: Path) -> None:
    judge(tmp_path, JUDGING)
    study = begun(tmp_path / "journal", JUDGING)
    assert study.rank_correlation() is None
    told(study, agree=False)
    assert study.rank_correlation() == pytest.approx(-1)
    assert JUDGING.judge.extra_trials == 2
    assert len(study.rows()) == 10
    assert study.remaining() == 0


def test_nothing_more_is_trained_where_judging_told_the_order(tmp_path: Path) -> None:
    judge(tmp_path, JUDGING)
    study = begun(tmp_path / "journal", JUDGING)
    told(study, agree=True)
    assert study.rank_correlation() == pytest.approx(1)
    assert len(study.rows()) == 8
    assert not study.may_grow()


PATIENT = replace(CONFIG, trials=12, patience=3)


def rising(study: BudgetStudy, gains: int, most: int = 100) -> int:
    """Train what is asked, of which so many enlarge the front; how many were trained."""
    trained = 0
    while trained < most and (proposal := study.ask()) is not None:
        better = min(proposal.number, gains - 1)
        study.complete(replace(row(proposal), val_top1=50.0 + 5 * better, gmacs=0.0))
        trained += 1
    return trained


@pytest.mark.parametrize(("gains", "trained"), [(1, 4), (3, 6), (8, 11), (9, 12), (12, 12)])
def test_a_sweep_of_some_patience_ends_once_trials_add_nothing(
    tmp_path: Path, gains: int, trained: int
) -> None:
    study = begun(tmp_path / "journal", PATIENT)
    assert rising(study, gains) == trained
    assert study.remaining() == 0
    assert not study.may_grow()
    assert study.settled() == (trained < 12 or gains == 9)
    assert rising(begun(tmp_path / "journal", PATIENT), gains) == 0
    assert rising(begun(tmp_path / "journal", replace(PATIENT, patience=0)), gains) == 12 - trained


def test_a_small_gain_of_several_trials_together_is_not_nothing(tmp_path: Path) -> None:
    few = replace(PATIENT, min_gain=16.0)  # three trials add 15 of 90 points
    assert rising(begun(tmp_path / "few", few), 12) == 12
    many = replace(PATIENT, min_gain=17.0)
    assert rising(begun(tmp_path / "many", many), 12) == 4


def test_trials_that_run_may_show_that_more_pays(tmp_path: Path) -> None:
    study = begun(tmp_path / "journal", PATIENT)
    rising(study, 1, most=3)
    last, running = study.ask(), study.ask()
    assert last is not None
    assert running is not None
    study.complete(replace(row(last), val_top1=50.0, gmacs=0.0))
    assert study.settled()
    assert study.ask() is None
    assert study.may_grow()
    assert study.remaining() == 8
    study.complete(replace(row(running), val_top1=90.0, gmacs=0.0))
    assert not study.settled()
    assert study.ask() is not None


def test_trials_that_failed_do_not_end_a_sweep_early(tmp_path: Path) -> None:
    study = begun(tmp_path / "journal", PATIENT)
    rising(study, 1, most=1)
    while (proposal := study.ask()) is not None:
        slow = proposal.number % 2
        ended = replace(row(proposal, PRUNED if slow else FAILED), epochs=0, val_top1=None)
        study.close(ended, "because", untrained_top1=40.0)
        assert not study.settled()
    assert len(study.rows()) == 12


def test_a_sampler_knows_what_was_too_slow_to_be_trained(tmp_path: Path) -> None:
    config = replace(CONFIG, max_latency_ms=5.0)
    study = begun(tmp_path / "journal", config)
    dense, slow, failed = (proposal for _ in range(3) if (proposal := study.ask()))
    study.complete(replace(row(dense), latency_ms=7.0))
    pruned = replace(row(slow, PRUNED), epochs=0, latency_ms=6.0, val_top1=None)
    study.close(pruned, "too slow", untrained_top1=40.0)
    ended = replace(row(failed, FAILED), latency_ms=4.0, val_top1=None)
    study.close(ended, "because", untrained_top1=50.0)
    known = {one.budget: one for one in study.known()}
    assert set(known) == {dense.budget, slow.budget}
    assert known[dense.budget].excess == 2.0
    untold = Regained(DENSE_TOP1, DENSE_TOP1, CHANCE).told_by([])
    foretold = untold.foretold(replace(known[slow.budget], val_top1=40.0)).val_top1
    assert (known[slow.budget].val_top1, known[slow.budget].excess) == (foretold, 1.0)


def test_of_several_target_costs_each_has_a_uniform_budget_and_then_the_sampler_asks(
    tmp_path: Path,
) -> None:
    whole = space_of(CONFIG).cost(Budget()).macs / 1e9
    targets = (0.4 * whole, 0.7 * whole)
    space = SpaceConfig(uniform=[0.9, 0.7, 0.5, 0.3])
    config = replace(CONFIG, space=space, target_gmacs=",".join(map(str, targets)))
    study = begun(tmp_path / "journal", config)
    costs = [study.space.cost(budget).macs / 1e9 for budget in study.first]
    assert costs == pytest.approx([whole, targets[1], targets[0]], rel=0.1)
    assert len(networks(study, run(study))) == 8


def test_a_sweep_that_judging_misled_does_not_end_early(tmp_path: Path) -> None:
    judge(tmp_path, JUDGING)
    study = begun(tmp_path / "journal", replace(JUDGING, patience=5, min_gain=100.0))
    told(study, agree=False)
    assert len(study.rows()) == 10
    again = tmp_path / "again"
    judge(again, JUDGING)
    study = begun(again / "journal", replace(JUDGING, patience=5, min_gain=100.0))
    told(study, agree=True)
    assert len(study.rows()) == 6


def test_a_limit_on_cost_holds_for_everything_but_the_dense_trial(tmp_path: Path) -> None:
    config = replace(CONFIG, max_gmacs=0.4 * space_of(CONFIG).cost(Budget()).macs / 1e9)
    study = begun(tmp_path / "journal", config)
    costs = [study.space.cost(budget).macs / 1e9 for budget in run(study)]
    assert max(costs[1:]) <= config.max_gmacs
