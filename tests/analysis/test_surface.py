"""The surface through budgets is the one that the accuracies came from."""

import numpy as np
import pandas as pd
import pytest

from analysis.runs import Run
from analysis.surface import draw_surface, fit_surface, surface_sentence


def rows(count: int, top1=lambda t, a, m: 60 + 10 * t + 5 * a + 2 * m) -> pd.DataFrame:
    budgets = np.random.default_rng(0).uniform(0.3, 1, (count, 3))
    table = pd.DataFrame(budgets, columns=["tokens", "mhsa", "mlp"])
    return table.assign(val_top1=top1(*budgets.T))


def test_a_plane_is_found_again_from_few_points() -> None:
    surface = fit_surface(rows(8))
    assert surface is not None
    assert surface.degree == 1
    assert surface.coefficients == pytest.approx([60, 10, 5, 2])
    assert surface.slopes() == pytest.approx({"tokens": 1.0, "mhsa": 0.5, "mlp": 0.2})
    assert surface.error == pytest.approx(0, abs=1e-9)


def test_a_curved_surface_is_found_again_from_many() -> None:
    surface = fit_surface(rows(30, lambda t, a, m: 50 + 30 * t - 10 * t * t + 4 * a * m))
    assert surface is not None
    assert surface.degree == 2
    at = surface.at(np.array([[0.5, 1.0, 0.5], [1.0, 0.5, 0.5]]))
    assert at == pytest.approx([50 + 15 - 2.5 + 2, 50 + 30 - 10 + 1])


def test_the_error_is_that_of_points_left_out() -> None:
    points = rows(12).assign(val_top1=np.random.default_rng(6).normal(80, 3, 12))
    surface = fit_surface(points)
    assert surface is not None
    assert surface.degree == 1
    left_out = []
    for index in points.index:
        without = fit_surface(points.drop(index))
        assert without is not None
        budgets = points.loc[[index], list(surface.names)].to_numpy()
        left_out.append(points.loc[index, "val_top1"] - without.at(budgets)[0])
    assert surface.error == pytest.approx(np.sqrt(np.mean(np.square(left_out))))
    accuracy = points["val_top1"]
    to_others = [one - accuracy.drop(index).mean() for index, one in accuracy.items()]
    assert surface.spread == pytest.approx(np.sqrt(np.mean(np.square(to_others))))
    assert not surface.is_of_use
    assert "they show no surface" in surface_sentence(surface, "trained networks")


def test_the_degree_is_that_of_the_smaller_error() -> None:
    points = rows(18).assign(val_top1=lambda table: table["tokens"] * 30 + 60)
    points["val_top1"] += np.random.default_rng(0).normal(0, 2, 18)
    points.loc[17, ["tokens", "mhsa", "mlp"]] = 8.0  # far off: a quadratic swings there
    surface = fit_surface(points)
    assert surface is not None
    assert surface.degree == 1
    assert surface.at(np.array([[50.0, 50.0, 50.0]])) <= 100


@pytest.mark.parametrize("table", [rows(0), rows(5), rows(20).assign(tokens=1.0, mhsa=1.0)])
def test_too_few_points_or_budgets_give_no_surface(table: pd.DataFrame) -> None:
    assert fit_surface(table) is None
    assert "too few trained networks" in surface_sentence(None, "trained networks")


def test_budgets_that_vary_only_together_give_no_surface_and_the_sentence_says_so() -> None:
    table = rows(20).assign(tokens=1.0, mlp=lambda table: table["mhsa"])
    assert fit_surface(table) is None
    assert "vary only together" in surface_sentence(None, "complete trials")


def test_a_model_that_keeps_its_tokens_has_one_map(judged_run: Run) -> None:
    whole = fit_surface(judged_run.judged)
    kept = fit_surface(judged_run.judged.assign(tokens=1.0))
    assert whole is not None
    assert kept is not None
    assert [trace.type for trace in draw_surface(whole).data] == ["heatmap", "scatter"] * 3
    assert [trace.type for trace in draw_surface(kept).data] == ["heatmap", "scatter"]
    assert draw_surface(kept).layout.xaxis.title.text == "MHSA (% kept)"
    assert "Tokens +1.00, MHSA +0.50 and MLP +0.20" in surface_sentence(whole, "budgets")
