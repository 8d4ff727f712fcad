"""The judged study judges each network once, the same ones however often it is interrupted."""

import random
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

import sweeps.judged
from slim import Budget
from sweeps.config import SweepConfig, resolved
from sweeps.front import most_gain_first, non_dominated
from sweeps.judged import JudgedRow, JudgedStudy
from sweeps.judging import Batches
from sweeps.proposals import propose
from sweeps.space import DENSE
from tests.sweeps.small_checkpoint import space_of

CONFIG = resolved(SweepConfig(seed=5))
CONFIG = replace(CONFIG, judge=replace(CONFIG.judge, budgets=40, batch=8))


def judged_row(study: JudgedStudy, number: int, budget: Budget) -> JudgedRow:
    """A made-up outcome, better with cost, best for budgets that keep MLP units."""
    cost = study.space.cost(budget)
    gmacs = cost.macs / 1e9
    top1 = 90 * budget.mlp**0.3 * budget.mhsa**0.2 * budget.tokens**0.1
    shares = (budget.tokens, budget.mhsa, budget.mlp)
    return JudgedRow(number, *shares, gmacs, cost.params / 1e6, top1, 10 * gmacs, 0.1)


def judged_rows(study: JudgedStudy, first: int, budgets: list[Budget]) -> list[JudgedRow]:
    return [judged_row(study, number, budget) for number, budget in enumerate(budgets, first)]


def judge(path: Path, config: SweepConfig, batches: int = 99) -> JudgedStudy:
    study = JudgedStudy(path / "journal", config, space_of(config))
    while batches and (batch := study.ask()):
        study.tell(judged_rows(study, len(study.rows()), batch))
        batches -= 1
    return study


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_each_network_is_judged_once_until_there_are_enough(tmp_path: Path, sampler: str) -> None:
    options = replace(CONFIG.judge, sampler=sampler, budgets=20)  # type: ignore[arg-type]
    study = judge(tmp_path, replace(CONFIG, judge=options))
    rows = study.rows()
    assert len({study.space.identity(row.budget) for row in rows}) == len(rows) == 20
    assert [row.number for row in rows] == list(range(20))
    assert rows[0].budget == DENSE
    assert study.space.smallest in [row.budget for row in rows]
    assert study.front() == non_dominated(rows)


def test_the_smallest_and_uniform_budgets_are_judged_however_small_a_batch(tmp_path: Path) -> None:
    rows = judge(tmp_path, replace(CONFIG, judge=replace(CONFIG.judge, budgets=9, batch=2))).rows()
    space = space_of(CONFIG)
    assert [row.budget for row in rows[:6]] == [*space.uniform, space.smallest]


def test_so_they_are_where_target_costs_take_turns(tmp_path: Path) -> None:
    whole = space_of(CONFIG).cost(DENSE).macs / 1e9
    targets = ",".join(str(share * whole) for share in (0.3, 0.5, 0.7))
    config = replace(CONFIG, target_gmacs=targets)
    large = judge(tmp_path / "large", config, batches=1)
    small = judge(tmp_path / "small", replace(config, judge=replace(CONFIG.judge, batch=2)), 3)
    first = [row.budget for row in small.rows()]
    assert first == small.space.first
    assert first == [row.budget for row in large.rows()][: len(first)]


def test_an_interrupted_study_judges_what_an_uninterrupted_one_judges(tmp_path: Path) -> None:
    whole = judge(tmp_path / "whole", CONFIG).rows()
    judge(tmp_path / "halves", CONFIG, batches=3)
    assert judge(tmp_path / "halves", CONFIG).rows() == whole
    other = judge(tmp_path / "other", replace(CONFIG, seed=6)).rows()
    assert [row.budget for row in other] != [row.budget for row in whole]


@pytest.mark.parametrize("told", [1, 5, 13, 21, 29, 39])
def test_a_batch_that_a_kill_left_half_told_is_judged_to_its_end(
    tmp_path: Path, told: int
) -> None:
    whole = judge(tmp_path / "whole", CONFIG).rows()
    study = JudgedStudy(tmp_path / "killed" / "journal", CONFIG, space_of(CONFIG))
    study.tell(whole[:told])
    assert judge(tmp_path / "killed", CONFIG).rows() == whole


def test_a_batch_is_asked_for_while_the_one_before_it_is_judged(tmp_path: Path) -> None:
    whole = judge(tmp_path / "after", CONFIG).rows()
    study = JudgedStudy(tmp_path / "ahead", CONFIG, space_of(CONFIG))
    batch = study.ask()
    while batch:
        following = study.pick(study.known(batch))
        study.tell(judged_rows(study, len(study.rows()), batch))
        batch = following
    assert study.rows() == whole


def judge_in_any_order(path: Path, slots: int, together: int) -> tuple[list[JudgedRow], int]:
    """Judge all, what runs ending by chance; the rows, and most batches at once."""
    study = JudgedStudy(path / "journal", CONFIG, space_of(CONFIG))
    batches, order = Batches(study), random.Random(slots)
    waiting, running, most = batches.budgets(together), dict[int, list[Budget]](), 0
    begun: list[int] = []
    while True:
        while len(running) < slots and (some := next(waiting, None)) is not None:
            running[some[0]] = some[1]
            begun += range(some[0], some[0] + len(some[1]))
        if not running:
            assert begun == list(range(len(begun)))  # each once
            return study.rows(), most
        most = max(most, len({number // CONFIG.judge.batch for number in running}))
        number = order.choice(list(running))
        batches.add(judged_rows(study, number, running.pop(number)))


def test_what_is_judged_does_not_depend_on_the_workers_nor_on_which_ends_first(
    tmp_path: Path,
) -> None:
    whole = judge(tmp_path / "alone", CONFIG).rows()
    for slots, together in ((1, 1), (1, 3), (3, 1), (2, 8), (8, 1), (99, 5)):
        rows, most = judge_in_any_order(tmp_path / f"{slots}-{together}", slots, together)
        assert rows == whole
        assert most == (1 if slots == 1 else 2)


def test_a_study_is_told_of_whole_batches_in_their_order(tmp_path: Path) -> None:
    study = JudgedStudy(tmp_path / "journal", CONFIG, space_of(CONFIG))
    batches, size = Batches(study), CONFIG.judge.batch
    waiting = batches.budgets()
    begun = [next(waiting) for _ in range(2 * size)]
    assert next(waiting) is None  # the third is not picked before the first is judged
    rows = [judged_rows(study, *some) for some in begun if some is not None]
    assert len(rows) == 2 * size
    assert not any(batches.add(some) for some in rows[:0:-1])
    assert study.rows() == []
    assert batches.add(rows[0])
    assert study.rows() == [row for some in rows for row in some]
    assert batches.told == 2 * size
    assert next(waiting) is not None


def test_a_batch_depends_on_all_results_but_those_of_the_batch_before(tmp_path: Path) -> None:
    found = {name: judge(tmp_path / name, CONFIG, batches=2) for name in ("good", "bad")}
    for name, study in found.items():
        batch = study.ask()
        rows = judged_rows(study, 16, batch)
        study.tell([replace(row, val_top1=99.0 * (name == "good")) for row in rows])
    fourth = {name: study.ask() for name, study in found.items()}
    assert fourth["good"] == fourth["bad"]
    fifth = {name: study.pick(study.known(fourth[name])) for name, study in found.items()}
    assert fifth["good"] != fifth["bad"]


def test_every_second_batch_is_picked_by_what_training_would_leave(tmp_path: Path) -> None:
    options = replace(CONFIG.judge, budgets=160)
    rows = judge(tmp_path, replace(CONFIG, judge=options)).rows()
    tokens = {0: list[float](), 1: list[float]()}
    for row in rows[64:]:  # after what is drawn by chance
        tokens[row.number // options.batch % 2].append(row.budget.tokens)
    assert mean(tokens[1]) > mean(tokens[0]) + 0.1  # training regains little of a tokens' loss


def test_a_sampler_is_asked_once_for_a_batch_and_not_at_all_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(*args: Any) -> list[Budget]:
        calls.append(args[-1])
        return propose(*args)

    monkeypatch.setattr(sweeps.judged, "propose", counted)
    study = judge(tmp_path, CONFIG)
    assert len(study.rows()) == 40
    first = len(study.space.first)
    assert 16 < first < 24
    assert calls == [8] * 3
    assert study.ask() == []
    assert calls == [8] * 3


def test_a_space_with_few_networks_is_exhausted_instead_of_judged_twice(tmp_path: Path) -> None:
    space = replace(CONFIG.space, tokens_min=1.0, mhsa_min=0.9, mlp_min=1.0, uniform=[])
    study = judge(tmp_path, replace(CONFIG, space=space))
    identities = {study.space.identity(row.budget) for row in study.rows()}
    assert len(identities) == len(study.rows()) == 48 - round(0.9 * 48) + 1


def test_a_target_with_nothing_new_leaves_its_turns_to_the_others(tmp_path: Path) -> None:
    space = space_of(CONFIG)
    smallest, dense = (space.cost(budget).macs / 1e9 for budget in (space.smallest, DENSE))
    targets = f"{1.02 * smallest},{0.5 * dense}"
    options = replace(CONFIG.judge, sampler="random", budgets=60)
    config = replace(CONFIG, target_gmacs=targets, judge=options)
    rows = judge(tmp_path, config).rows()
    few = [row for row in rows if row.gmacs <= 1.02 * smallest]
    assert len(rows) == 60
    assert 0 < len(few) < 10


def test_a_network_too_slow_is_judged_but_not_on_the_front(tmp_path: Path) -> None:
    limit = 5 * space_of(CONFIG).cost(DENSE).macs / 1e9  # half the dense model's
    limited = replace(CONFIG, max_latency_ms=limit)
    study = judge(tmp_path, limited)
    too_slow = [row for row in study.rows() if (row.latency_ms or 0) > limit]
    assert too_slow
    assert not {row.number for row in too_slow} & {row.number for row in study.front()}
    assert study.front()


def test_the_first_of_a_front_however_many_add_most_to_its_hypervolume(tmp_path: Path) -> None:
    front = judge(tmp_path, CONFIG).front()
    limit = space_of(CONFIG).cost(DENSE).macs / 1e9

    def volume(rows: list[JudgedRow]) -> float:
        """Of the box that ends at no accuracy and the dense cost, strip after strip."""
        strips, cost = 0.0, limit
        for row in sorted(rows, key=lambda row: -row.val_top1):
            strips += max(0.0, cost - row.gmacs) * row.val_top1
            cost = min(cost, row.gmacs)
        return strips

    order = most_gain_first(front, 0.0, limit, len(front))
    assert most_gain_first(front, 0.0, limit, 3) == order[:3]
    assert sorted(row.number for row in order) == sorted(row.number for row in front)
    for count in range(len(order)):
        grown = [volume([*order[:count], row]) for row in order[count:]]
        assert grown[0] == pytest.approx(max(grown))
    assert most_gain_first([], 0.0, limit, 3) == []
