"""The front as a page of MLflow: a shared view of a sweep's non-dominated trials."""

import json
from urllib.parse import urlencode

from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

SHARED_VIEW = "mlflow.sharedViewState."
"""Experiment tag, completed by a name, that MLflow's page reads a view from."""
PARAMS = ("tokens", "mhsa", "mlp")
METRICS = ("gmacs", "params_m", "val_top1", "test_top1")


def front_view(parent: str) -> str:
    """The view's value: which runs, in which order, with which columns.

    Args:
        parent: MLflow's id of the sweep's run.

    Returns:
        JSON as MLflow's own "share view" has it before it compresses it; its page reads both.
    """
    columns = [f"metrics.`{name}`" for name in METRICS] + [f"params.`{name}`" for name in PARAMS]
    view = {
        "searchFilter": f"tags.front = 'true' and tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'",
        "orderByKey": "metrics.`gmacs`",
        "orderByAsc": True,
        "selectedColumns": columns,
    }
    return json.dumps(view)


def front_page(experiment: str, name: str) -> str:
    """Where the view is, below the address of an `mlflow ui`."""
    # Without the type of work, MLflow opens the page for language models.
    query = urlencode({"workflowType": "machine_learning", "viewStateShareKey": name})
    return f"/#/experiments/{experiment}/runs?{query}"
