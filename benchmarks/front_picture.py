"""Draw the README's picture of a front from a finished run.

    python benchmarks/front_picture.py runs/NAME docs/front.svg

Needs the extra "pictures" and a Chrome or Chromium.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import kaleido
import pandas as pd

from analysis.pareto_front import draw_front, front_data
from analysis.runs import saved_dense


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("picture", type=Path, help="file to write: .svg or .png")
    arguments = parser.parse_args()
    trials = pd.read_csv(arguments.run / "trials.csv")
    figure = draw_front(front_data(trials, saved_dense(arguments.run / "dense")))
    figure.update_layout(paper_bgcolor="white", plot_bgcolor="white")
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / arguments.picture.name
        kaleido.write_fig_sync(
            figure,
            path=str(draft),
            opts={"width": 900, "height": 480},
            kopts={"path": browser} if browser else None,
        )
        arguments.picture.write_bytes(draft.read_bytes())


if __name__ == "__main__":
    main()
