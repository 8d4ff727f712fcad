"""Ray Tune asks for budgets here; answers come from the budget study."""

from typing import Any

from ray.tune.search import Searcher

from sweeps.stopping import StopRequest
from sweeps.study import BudgetStudy


class StudySearcher(Searcher):
    """Hands the study's proposals to Ray Tune.

    Ray's own OptunaSearch tells stopped trials as complete; here the recorder alone tells the
    study how a trial ended, and the study's journal is what resuming reads.

    Args:
        study: Where budgets come from.
        stop: When it is made, there are no more.
    """

    def __init__(self, study: BudgetStudy, stop: StopRequest) -> None:
        super().__init__(metric="val_top1", mode="max")
        self.study, self.stop = study, stop

    def __getstate__(self) -> dict[str, Any]:
        """Nothing travels with Tune's own state: a resumed sweep makes this anew."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next budget, or that there are no more."""
        if self.stop.made:
            return Searcher.FINISHED
        proposal = self.study.ask()
        if proposal is None:  # nothing now, or nothing more
            return None if self.study.may_grow() else Searcher.FINISHED
        budget = proposal.budget
        return {
            "number": proposal.number,
            "tokens": budget.tokens,
            "mhsa": budget.mhsa,
            "mlp": budget.mlp,
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: the recorder tells the study."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's journal is written through."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a resumed sweep reads the journal."""
