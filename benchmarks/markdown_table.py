"""Tables as Markdown, as the benchmarks print them for README and docs."""

import pandas as pd


def markdown_table(table: pd.DataFrame) -> str:
    """Display-ready values as a Markdown table, aligned right; bars in texts are escaped."""
    rows = [list(table.columns), *table.itertuples(index=False, name=None)]
    cells = [["–" if pd.isna(value) else str(value) for value in row] for row in rows]
    lines = [" | ".join(cell.replace("|", r"\|") for cell in row) for row in cells]
    rule = " | ".join("---:" for _ in table.columns)
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])
