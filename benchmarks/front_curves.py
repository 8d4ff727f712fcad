"""The picture of front_quality.py: hypervolume over compute, one line for each arm."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from front_points import Course
from front_tables import by_arm

from analysis import theme


def draw_courses(courses: Sequence[Course]) -> go.Figure:
    """Draw each arm's hypervolume after each network, over compute; means over the seeds."""
    figure = go.Figure()
    for arm, seeds in by_arm(courses).items():
        networks = min(len(seed.points) for seed in seeds)
        cut = [seed.first(networks) for seed in seeds]
        figure.add_scatter(
            x=np.mean([seed.compute(True) for seed in cut], axis=0),
            y=np.mean([seed.hypervolumes() for seed in cut], axis=0),
            name=arm,
            mode="lines+markers",
            line={"shape": "hv"},
        )
    figure.update_layout(
        template=theme.TEMPLATE,
        height=480,
        showlegend=True,
        xaxis={"title": {"text": "Compute (1e9 MACs x images)"}, "type": "log"},
        yaxis={"title": {"text": "Hypervolume (% of the box)"}},
    )
    return figure
