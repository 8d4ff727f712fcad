"""What the trainings of the same budgets say of a front."""

from statistics import fmean, stdev

import pandas as pd
import pytest

from analysis.repeats import draw_repeats, repeats_data, repeats_sentence, repeats_table
from analysis.runs import Run
from tests.analysis.tables import trials_table

OWN = [90.0, 85.0, 80.0]
OTHERS = [[88.0, 89.0], [86.0], []]
"""By trial: its own val top-1, and that of the other trainings of its budget; trial 2 has none."""


@pytest.fixture
def trials() -> pd.DataFrame:
    table = trials_table(gmacs=[4, 2, 1], val_top1=OWN).assign(test_top1=[v - 1 for v in OWN])
    table["front"] = True
    every = [[own, *others] for own, others in zip(OWN, OTHERS, strict=True)]
    table["trainings"] = [len(values) if len(values) > 1 else float("nan") for values in every]
    for split, less in (("val_top1", 0), ("test_top1", 1)):
        table[f"{split}_mean"] = [fmean(values) - less for values in every]
        table[f"{split}_std"] = [stdev(v) if len(v) > 1 else float("nan") for v in every]
    return table


def test_the_spread_is_pooled_and_luck_is_the_distance_to_the_other_trainings(trials) -> None:
    data = repeats_data(trials)
    assert data.networks["trial"].tolist() == [1, 0]
    # Two degrees of freedom of a variance of 1, one of 0.5.
    assert data.val_std == pytest.approx((2.5 / 3) ** 0.5)
    luck = fmean([90 - fmean(OTHERS[0]), 85 - fmean(OTHERS[1])])
    assert data.val_luck == pytest.approx(luck)
    assert data.test_luck == pytest.approx(luck)


def test_what_left_the_front_is_left_out(trials) -> None:
    trials.loc[0, "front"] = False
    data = repeats_data(trials)
    assert data.networks["trial"].tolist() == [1]
    assert data.val_std == pytest.approx(0.5**0.5)
    assert repeats_sentence(data).startswith("1 network of the front was trained again")


def test_members_that_their_means_push_off_the_front_are_counted(trials) -> None:
    assert repeats_data(trials).kept == 2
    trials.loc[0, "val_top1_mean"] = 85.4  # dearer than trial 1, whose mean is 85.5
    assert repeats_data(trials).kept == 1


def test_the_sentence_and_the_table_are_rounded_for_reading(trials) -> None:
    data = repeats_data(trials)
    told = repeats_sentence(data)
    assert told.startswith("2 networks of the front were trained again with other seeds.")
    assert "standard deviation of 0.91 points on val and 0.91 on test" in told
    assert "differ from the others of their budgets by +0.25 points on val" in told
    assert told.endswith("By their means, 2 of the 2 are still non-dominated.")
    row = repeats_table(data).iloc[1]
    assert (row["Trial"], row["Trainings"]) == (0, 3)
    assert (row["mean ± std"], row["mean ± std "]) == ("89.00 ± 1.00", "88.00 ± 1.00")


def test_the_picture_has_the_spread_as_bars(trials) -> None:
    mean, chosen = draw_repeats(repeats_data(trials)).data
    assert mean.error_y.array.tolist() == pytest.approx([0.5**0.5, 1.0])
    assert mean.y.tolist() == [85.5, 89.0]
    assert chosen.y.tolist() == [85.0, 90.0]


def test_a_run_without_repeats_says_how_to_have_them(full_run: Run) -> None:
    data = repeats_data(full_run.trials)
    assert "`--repeats 3`" in repeats_sentence(data)
    assert repeats_table(data).empty
