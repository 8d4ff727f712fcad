"""How numbers, names and lists are written in sentences, hovers and tables."""

import html
import math
import string
from collections.abc import Iterable

MISSING = "–"


def number(value: float) -> str:
    """Three significant digits without an exponent; a dash for a missing value."""
    if not math.isfinite(value):
        return MISSING
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(digits, 0)}f}"


def top1(value: float) -> str:
    """A top-1 accuracy in percent, two decimals as the literature prints it."""
    return f"{value:.2f}" if math.isfinite(value) else MISSING


def points(value: float) -> str:
    """A signed difference of two accuracies, in percentage points."""
    return f"{round(value, 2) + 0.0:+.2f}" if math.isfinite(value) else MISSING


def share(value: float) -> str:
    """A fraction as a whole percentage."""
    return f"{100 * value:.0f} %" if math.isfinite(value) else MISSING


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 120:
        return f"{number(seconds)} s"
    if seconds < 7200:
        return f"{number(seconds / 60)} min"
    return f"{number(seconds / 3600)} h"


def counted(amount: int, noun: str) -> str:
    """ "1 trial", "2 trials"."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"


def listed(parts: Iterable[object]) -> str:
    """ "a, b and c"."""
    words = [str(part) for part in parts]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def shortened(name: str, length: int) -> str:
    """A name of at most so many characters: the end of a long one, which tells paths apart."""
    return name if len(name) <= length else f"…{name[1 - length :]}"


def escaped(name: str) -> str:
    """A name from outside as Markdown that shows it letter by letter and never acts on it."""
    active = set(string.punctuation) - set("-.,")
    flat = " ".join(name.split())
    return "".join(f"&#{ord(char)};" if char in active else char for char in flat)


def figure_text(name: str) -> str:
    """A name from outside as text of a figure, where plotly reads some HTML."""
    return html.escape(name, quote=False)
