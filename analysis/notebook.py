"""How a notebook shows a sentence, a table and a figure."""

import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML, Markdown, display


def show_text(markdown: str) -> None:
    """Show a paragraph of Markdown."""
    display(Markdown(markdown))


def show_table(table: pd.DataFrame) -> None:
    """Show a table of display-ready values; text in it is escaped, rows are not numbered."""
    display(HTML(table.to_html(index=False, escape=True, border=0, na_rep="–")))


def show_figure(figure: go.Figure) -> None:
    """Show a figure that can be hovered and zoomed."""
    display(figure)
