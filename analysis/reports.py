"""Where the notebooks become reports: executed with papermill, written as offline pages."""

import html
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import nbformat
import papermill
import zmq
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from analysis.errors import ReportError
from slim.errors import one_line
from slim.files import write_text_atomic

REPORTS = ("front", "budgets", "structure", "transfer", "comparison", "compute")
NOTEBOOKS = Path(__file__).parent
LONGEST_CELL = 1800
"""Seconds after which a cell counts as stuck."""
LONGEST_FOLDER = 80
"""Characters of a folder whose files' names a socket can have, which ends at 107."""

_FIGURE = "application/vnd.plotly.v1+json"


def make_reports(
    tracking_uri: str,
    run_name: str,
    folder: str | Path,
    names: Sequence[str] = REPORTS,
    run_id: str | None = None,
) -> list[Path]:
    """Execute notebooks against a run and write each as one HTML page that needs no network.

    The notebooks share one kernel, so that its imports are paid once; each starts with an empty
    namespace.

    Args:
        tracking_uri: Where MLflow holds the run.
        run_name: The sweep's name.
        folder: Where `NAME.html` goes; made if need be. Existing pages are replaced atomically.
        names: Some of REPORTS.
        run_id: MLflow's id of the sweep's run, where several may have the name; by default the
            newest is meant.

    Returns:
        The pages' paths, in the order of `names`.

    Raises:
        ReportError: If there is no report of a name or a notebook fails; one line.
    """
    unknown = [name for name in names if name not in REPORTS]
    if unknown:
        raise ReportError(f"no report named {unknown[0]!r}; choose from {', '.join(REPORTS)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {"tracking_uri": tracking_uri, "run_name": run_id or run_name}
    pages = {name: (folder / f"{name}.html", f"{run_name}: {name}") for name in names}
    return _make_pages(pages, parameters)


def make_comparison(
    tracking_uri: str,
    first: str,
    second: str,
    page: str | Path,
    run_ids: tuple[str, str] | None = None,
) -> Path:
    """Write one HTML page with the fronts of two runs beside each other.

    Args:
        tracking_uri: Where MLflow holds both runs.
        first: A sweep's name.
        second: Another's.
        page: The file; replaced atomically.
        run_ids: As `run_id` of `make_reports`, of both.

    Raises:
        ReportError: If a run is not there or the notebook fails; one line.
    """
    wanted = dict(zip(("first_name", "second_name"), run_ids or (first, second), strict=True))
    parameters = {"tracking_uri": tracking_uri} | wanted
    pages = {"two_runs": (Path(page), f"{first} and {second}")}
    return _make_pages(pages, parameters)[0]


def _make_pages(pages: Mapping[str, tuple[Path, str]], parameters: dict[str, str]) -> list[Path]:
    """Execute notebooks, by name, into (page, title)."""
    with _own_thread() as thread, _own_kernel(thread) as kernel:
        for name, (page, title) in pages.items():
            notebook = thread.submit(_execute, name, parameters, kernel).result()
            write_text_atomic(page, _page(title, notebook))
    return [page for page, _ in pages.values()]


class _OwnKernel(AsyncKernelManager):
    """Starts this process's interpreter, whatever kernels are installed, without network ports."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """This interpreter, with this package on its path and quiet."""
        path = [str(NOTEBOOKS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="python3",
            language="python",
            env={
                "PYTHONPATH": os.pathsep.join(path),
                "PLOTLY_RENDERER": "plotly_mimetype",
                "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
                "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            },
        )


@contextmanager
def _own_thread() -> Iterator[ThreadPoolExecutor]:
    """A thread apart: nbclient replaces the main thread's signal handlers."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="reports")
    try:
        yield thread
    finally:
        thread.shutdown(cancel_futures=True)


@contextmanager
def _own_kernel(thread: ThreadPoolExecutor) -> Iterator[_OwnKernel]:
    """A running kernel whose files, its sockets among them, are in a folder of their own."""
    place = tempfile.gettempdir()
    if len(place) > LONGEST_FOLDER:
        place = "/tmp"
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        connection = str(Path(scratch) / "k.json")
        kernel = _OwnKernel(kernel_name="python3", transport="ipc", connection_file=connection)
        quiet = [
            f"--ipython-dir={scratch}",
            "--HistoryManager.enabled=False",
            "--log-level=CRITICAL",
        ]
        try:
            try:
                thread.submit(run_sync(kernel.start_kernel), extra_arguments=quiet).result()
            except (RuntimeError, TimeoutError, OSError, zmq.ZMQError) as error:
                problem = one_line(error, 300)
                raise ReportError(f"the reports' kernel does not start: {problem}") from error
            yield kernel
        finally:  # open sockets would keep this process from ending
            thread.submit(run_sync(kernel.shutdown_kernel), now=True).result()


def _execute(name: str, parameters: dict[str, str], kernel: _OwnKernel) -> NotebookNode:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    notebook.cells.insert(0, new_code_cell("%reset -f"))
    try:
        return papermill.execute_notebook(
            notebook,
            None,
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            execution_timeout=LONGEST_CELL,
            km=kernel,
        )
    except papermill.PapermillExecutionError as error:
        problem = one_line(f"{error.ename}: {error.evalue}", 300)
        raise ReportError(f"report {name}: {problem}") from error
    except (RuntimeError, TimeoutError, OSError) as error:
        raise ReportError(f"report {name}: its kernel failed: {one_line(error, 300)}") from error


def _page(title: str, notebook: NotebookNode) -> str:
    """A whole page: nbconvert's body without code, plotly.js once, and no address elsewhere."""
    for cell in notebook.cells:
        shown = [output for output in cell.get("outputs", []) if "data" in output]
        for output in shown:
            if _FIGURE in output.data:
                output.data = {"text/html": _figure_html(output.data[_FIGURE])}
        if cell.cell_type == "code":
            cell.outputs = shown  # without what libraries print and warn
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        embed_images=True,
    )
    body, _ = exporter.from_notebook_node(notebook)
    return _PAGE.format(title=html.escape(title), plotly=get_plotlyjs(), body=body)


def _figure_html(figure: dict[str, object]) -> str:
    config = {"displaylogo": False, "responsive": True}
    return to_html(figure, config=config, include_plotlyjs=False, full_html=False, validate=False)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; }}
body {{ padding: 0 1rem; }}
table {{ border-collapse: collapse; font-size: 0.9rem; margin: 1rem 0; }}
th, td {{ padding: 0.3rem 0.8rem; text-align: right; border-bottom: 1px solid #8886; }}
td {{ white-space: nowrap; }}
th {{ border-bottom: 2px solid #888; vertical-align: bottom; }}
.output_html {{ overflow-x: auto; }}
</style>
<script>{plotly}</script>
</head>
<body>
{body}
</body>
</html>
"""
