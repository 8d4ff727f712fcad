"""Judged accuracies read together: what budgets nearby scored tells of each one, too.

A network judged on a part of val is a noisy reading of a function of three budgets that is smooth.
Gaussian process regression (Rasmussen and Williams, 2006, chapter 2) takes the noise out of the
readings: without it the front of hundreds is that of the luckiest, and a sampler follows them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Kernel, WhiteKernel

from sweeps.proposals import Observation
from sweeps.space import DIMENSIONS

FEWEST = 32  # fewer readings tell nothing of each other
_MOST_FITTED = 128  # that length scales and noise are fitted to
_MOST_READ = 2048  # that the others are read by: time grows with the cube of their number


def pooled(observations: Sequence[Observation]) -> list[Observation]:
    """Observations with the accuracies that all of them together tell; the others as they are.

    Args:
        observations: Those without an accuracy are left out of it.
    """
    judged = [i for i, one in enumerate(observations) if one.val_top1 is not None]
    if len(judged) < FEWEST:
        return list(observations)
    budgets = [[getattr(observations[i].budget, name) for name in DIMENSIONS] for i in judged]
    top1 = [float(observations[i].val_top1 or 0.0) for i in judged]
    told = list(observations)
    for i, accuracy in zip(judged, smoothed(np.array(budgets), np.array(top1)), strict=True):
        told[i] = replace(told[i], val_top1=float(accuracy))
    return told


def smoothed(budgets: np.ndarray, top1: np.ndarray) -> np.ndarray:
    """The posterior mean at each budget: (n,), percent.

    Args:
        budgets: Shares kept: (n, dimensions).
        top1: What each scored, in percent: (n,). The arcsine of the root has the same sampling
            variance at any accuracy.
    """
    angles = np.arcsin(np.sqrt(top1 / 100))
    mean, spread = angles.mean(), angles.std()
    logs = np.log(budgets[:, np.ptp(budgets, axis=0) > 0])
    if spread == 0 or not logs.shape[1]:
        return top1
    values = (angles - mean) / spread
    few, some = (_spread(len(values), most) for most in (_MOST_FITTED, _MOST_READ))
    regression = GaussianProcessRegressor(_fitted(logs[few], values[few]), optimizer=None)
    found = regression.fit(logs[some], values[some]).predict(logs) * spread + mean
    accuracy: np.ndarray = 100 * np.sin(np.clip(found, 0, np.pi / 2)) ** 2
    return accuracy


def _fitted(logs: np.ndarray, values: np.ndarray) -> Kernel:
    """Length scales and noise that make these readings most likely."""
    scales = RBF(np.ones(logs.shape[1]), (0.05, 50.0))
    kernel = ConstantKernel(1.0, (1e-2, 1e3)) * scales + WhiteKernel(0.01, (1e-5, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a scale at its bound is an answer
        return GaussianProcessRegressor(kernel).fit(logs, values).kernel_


def _spread(count: int, most: int) -> np.ndarray:
    """At most so many positions of a number, evenly spread, ascending."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int)
