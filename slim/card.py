"""The model card: what a saved network is, for a person who opens its folder."""

import json
from typing import Any

from slim.architecture import Architecture
from slim.cost import count

MARK = "# Written by slim.save, which writes it anew as long as this line stands."
ACCURACIES = {"val_top1": "validation", "test_top1": "test"}
SECTIONS = {"budget": "Budget", "data": "Data", "preprocessing": "Preprocessing"}
DIMENSIONS = {"tokens": "token slots", "mhsa": "attention dimensions", "mlp": "MLP units"}
LONGEST_VALUE = 300


def model_card(architecture: Architecture, about: dict[str, Any]) -> str:
    """Describe a network in Markdown, with the YAML header that Hugging Face's hub reads.

    Args:
        architecture: Of the network.
        about: JSON values kept beside it. `val_top1`, `test_top1` (percent), `repeats` (of the
            same budget trained again: `trainings`, and `_mean` and `_std` of these two), `budget`,
            `data` and `preprocessing` have places of their own, everything else is listed at the
            end.

    Returns:
        The text. Names and values from `about` stand in code spans, where Markdown, HTML and
        links mean nothing.
    """
    rest = {k: v for k, v in about.items() if k not in SECTIONS and not _is_accuracy(k, v)}
    if _repeats(about):
        del rest["repeats"]
    parts = [
        _header(architecture),
        _title(architecture),
        _cost(architecture),
        _accuracy(about),
        *(_listing(title, about[key]) for key, title in SECTIONS.items() if about.get(key)),
        _structure(architecture),
        _loading(architecture),
        _listing("Also kept beside it", rest) if rest else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(architecture: Architecture) -> str:
    task = "image-classification" if architecture.spec.num_classes else "image-feature-extraction"
    tags = "\n".join(f"- {tag}" for tag in ("timm", "vit-slim", "vision-transformer", "pruning"))
    return f"---\n{MARK}\nlibrary_name: vit-slim-sweeps\npipeline_tag: {task}\ntags:\n{tags}\n---"


def _title(architecture: Architecture) -> str:
    images = " x ".join(str(size) for size in architecture.spec.input_size)
    model = f"A Vision Transformer of {len(architecture.tokens)} blocks for {images} images"
    if architecture.is_dense:
        return f"# Vision Transformer\n\n{model}; nothing is cut from it."
    return f"# Slimmed Vision Transformer\n\n{model}, physically smaller than its dense model."


def _cost(architecture: Architecture) -> str:
    dense = Architecture.dense(architecture.spec)
    ours, theirs = count(architecture), count(dense)
    kept, total = architecture.kept(), dense.kept()
    rows = [
        _share("MACs for one image", ours.macs, theirs.macs),
        _share("parameters", ours.params, theirs.params),
        *(_share(name, kept[key], total[key]) for key, name in DIMENSIONS.items()),
    ]
    head = "| | this network | dense model | share |\n| --- | ---: | ---: | ---: |"
    return "\n".join(["## Cost\n", head, *rows])


def _share(name: str, ours: int, theirs: int) -> str:
    return f"| {name} | {ours:,} | {theirs:,} | {ours / theirs:.1%} |"


def _accuracy(about: dict[str, Any]) -> str:
    """A table of what was measured, on the splits it was measured on."""
    spreads = _repeats(about)
    rows = [
        f"| {split} | {about[key]:.2f} % |" + (f" {_spread(spreads, key)} |" if spreads else "")
        for key, split in ACCURACIES.items()
        if key in about and _is_accuracy(key, about[key])
    ]
    if not rows:
        return ""
    head = "| split | top-1 |\n| --- | ---: |"
    if spreads:
        again = f"mean and standard deviation of {spreads['trainings']} trainings"
        head = f"| split | top-1 | {again} |\n| --- | ---: | ---: |"
    return "\n".join(["## Accuracy\n", head, *rows])


def _spread(spreads: dict[str, Any], key: str) -> str:
    return f"{spreads[f'{key}_mean']:.2f} ± {spreads[f'{key}_std']:.2f} %"


def _is_accuracy(key: str, value: Any) -> bool:
    return key in ACCURACIES and type(value) in (int, float)


def _repeats(about: dict[str, Any]) -> dict[str, Any]:
    """What stands beside the accuracies, of the same budget trained again; empty if it cannot."""
    given = about.get("repeats")
    if not isinstance(given, dict) or type(given.get("trainings")) is not int:
        return {}
    names = (f"{key}_{figure}" for key in ACCURACIES for figure in ("mean", "std"))
    numbers = [about.get(key) for key in ACCURACIES] + [given.get(name) for name in names]
    return given if all(type(number) in (int, float) for number in numbers) else {}


def _structure(architecture: Architecture) -> str:
    dense = Architecture.dense(architecture.spec)
    rows = [_block(architecture, dense, block) for block in range(len(architecture.tokens))]
    note = (
        "What each block keeps of what it has in the dense model. Tokens are patch tokens; prefix "
        "tokens are\nnever dropped."
    )
    head = (
        "| block | tokens | attention dimensions | dimensions of each head | MLP units |\n"
        "| ---: | ---: | ---: | --- | ---: |"
    )
    return "\n".join([f"## Structure\n\n{note}\n", head, *rows])


def _block(architecture: Architecture, dense: Architecture, block: int) -> str:
    tokens = f"{len(architecture.tokens[block])} of {len(dense.tokens[block])}"
    dims = f"{architecture.dims_in(block)} of {dense.dims_in(block)}"
    heads = ", ".join(str(len(head)) for head in architecture.heads[block])
    units = f"{len(architecture.units[block])} of {len(dense.units[block])}"
    return f"| {block} | {tokens} | {dims} | {heads} | {units} |"


def _loading(architecture: Architecture) -> str:
    images = ", ".join(str(size) for size in architecture.spec.input_size)
    classes = architecture.spec.num_classes
    returns = f"logits: (B, {classes})" if classes else "features: (B, D)"
    return f"""## Load it

```python
import slim

vit = slim.load("FOLDER")  # this folder; runs no code of it
{returns.partition(":")[0]} = vit(images)  # images: (B, {images}); {returns}
```"""


def _listing(title: str, values: Any) -> str:
    """A section of values whose names and contents may come from anywhere."""
    named = values.items() if isinstance(values, dict) else [("value", values)]
    lines = [f"- {_code(str(name))}: {_code(_text(value))}" for name, value in named]
    return "\n".join([f"## {title}\n", *lines])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _code(text: str) -> str:
    """One line of text as a code span, whatever it holds; overlong text is cut."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(line) > LONGEST_VALUE:
        line = line[:LONGEST_VALUE] + "…"
    runs = "".join(c if c == "`" else " " for c in line).split()
    fence = "`" * (1 + max(map(len, runs), default=0))
    space = " " if not line or "`" in (line[0], line[-1]) else ""
    return f"{fence}{space}{line}{space}{fence}"
