"""What a kill or a full disk leaves at the end of a file of lines: half a line."""

from pathlib import Path


def drop_torn_line(path: Path) -> None:
    """Cut off a last line without an end, so that the next one begins on its own."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
