"""The budget study asks, resumes and ends trials as promised."""

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import timm
import torch
from optuna.trial import TrialState

from slim import Budget
from slim.spec import read_spec
from sweeps.config import SpaceConfig, SweepConfig
from sweeps.front import pareto_front
from sweeps.study import BudgetStudy, Proposal, space_for
from sweeps.trials import COMPLETE, FAILED, PRUNED, TrialRow

CONFIG = SweepConfig(trials=8, seed=3, space=SpaceConfig(uniform=[0.5, 0.25]))


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
    budgets = run(BudgetStudy(tmp_path / "journal", CONFIG))
    assert len(budgets) == 8
    assert budgets[:3] == [Budget(1, 1, 1), Budget(0.5, 0.5, 0.5), Budget(0.25, 0.25, 0.25)]
    assert len(set(budgets)) == 8


def test_sampled_budgets_stay_in_the_space(tmp_path: Path) -> None:
    space = SpaceConfig(tokens_min=0.6, mhsa_min=0.7, mlp_min=0.8, uniform=[])
    for budget in run(BudgetStudy(tmp_path / "journal", replace(CONFIG, space=space))):
        assert budget.tokens >= 0.6
        assert budget.mhsa >= 0.7
        assert budget.mlp >= 0.8


def test_a_dimension_whose_smallest_budget_is_1_stays_whole(tmp_path: Path) -> None:
    space = SpaceConfig(tokens_min=1.0, mhsa_min=0.2, mlp_min=0.2, uniform=[0.5])
    budgets = run(BudgetStudy(tmp_path / "journal", replace(CONFIG, space=space)))
    assert budgets[1] == Budget(1, 0.5, 0.5)
    assert {budget.tokens for budget in budgets} == {1.0}
    assert len({(budget.mhsa, budget.mlp) for budget in budgets}) == 8


def test_the_space_of_a_swin_keeps_every_token_and_that_of_a_vit_is_as_configured() -> None:
    space = SpaceConfig(tokens_min=0.4)
    with torch.device("meta"):
        swin = read_spec(timm.create_model("swin_tiny_patch4_window7_224"))
        vit = read_spec(timm.create_model("deit_tiny_patch16_224"))
    assert space_for(space, swin) == replace(space, tokens_min=1.0)
    assert space_for(space, vit) == space


@pytest.mark.parametrize("stopped_after", [1, 3, 5, 7])
def test_a_resumed_study_asks_what_an_uninterrupted_one_asks(
    tmp_path: Path, stopped_after: int
) -> None:
    whole = run(BudgetStudy(tmp_path / "whole", CONFIG))
    first = run(BudgetStudy(tmp_path / "halves", CONFIG), most=stopped_after)
    second = run(BudgetStudy(tmp_path / "halves", CONFIG))
    assert first + second == whole


def test_an_interrupted_trial_is_asked_again_under_its_number(tmp_path: Path) -> None:
    study = BudgetStudy(tmp_path / "journal", CONFIG)
    run(study, most=4)
    lost = study.ask()
    assert lost is not None
    again = BudgetStudy(tmp_path / "journal", CONFIG)
    assert again.remaining() == 4
    assert again.ask() == lost
    again.complete(row(lost))
    run(again)
    assert [r.trial for r in again.rows()] == list(range(8))


def test_another_seed_asks_other_budgets(tmp_path: Path) -> None:
    ours = run(BudgetStudy(tmp_path / "a", CONFIG))
    theirs = run(BudgetStudy(tmp_path / "b", replace(CONFIG, seed=4)))
    assert ours[:3] == theirs[:3]
    assert ours[3:] != theirs[3:]


@pytest.mark.parametrize(
    ("state", "told"), [(PRUNED, TrialState.PRUNED), (FAILED, TrialState.FAIL)]
)
def test_an_unfinished_trial_is_never_complete_nor_on_the_front(
    tmp_path: Path, state: str, told: TrialState
) -> None:
    study = BudgetStudy(tmp_path / "journal", CONFIG)
    proposal = study.ask()
    assert proposal is not None
    best = replace(row(proposal, state), val_top1=100.0, gmacs=0.0)
    study.close(best, "because")
    run(study)
    assert study.study.trials[0].state == told
    assert study.study.trials[0].values is None
    assert study.rows()[0] == best
    assert 0 not in [r.trial for r in pareto_front(study.rows())]
    assert isinstance(study.study.sampler, optuna.samplers.TPESampler)


def test_the_front_keeps_equals_and_drops_the_dominated() -> None:
    proposal = Proposal(0, Budget())
    points = [(1.0, 90.0), (0.5, 90.0), (0.5, 90.0), (0.5, 80.0), (0.2, 70.0), (0.2, 75.0)]
    rows = [
        replace(row(proposal), trial=n, gmacs=gmacs, val_top1=accuracy)
        for n, (gmacs, accuracy) in enumerate(points)
    ]
    assert [r.trial for r in pareto_front(rows)] == [5, 1, 2]
    assert pareto_front([]) == []
