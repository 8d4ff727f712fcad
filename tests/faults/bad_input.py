"""What comes from outside and cannot be used: each case makes its input and says how it is given.

`python -m tests.faults.bad_input` writes docs/bad_input.md anew from what the program says.
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import timm
import torch

import run_sweep
import slim
from slim.files import write_tensors
from slim.serving import HEADER
from tests.slim import damage, torchvision_files
from tests.sweeps.images import write_image_folder

TABLE = Path(__file__).parents[2] / "docs" / "bad_input.md"
HEAD = """# Bad input

Every line is what `run_sweep.py` says, on stderr and as one line, before anything starts; nothing
is written. `python -m tests.faults.bad_input` makes the table, and the tests check it.

| input | message | exit code |
| --- | --- | --- |
"""


def saved(spoil: Callable[[Path], object] = lambda folder: None, **options: int) -> list[str]:
    """A saved network, spoiled; given as the model."""
    shape = {"img_size": 32, "depth": 1, "num_classes": 10, "in_chans": 1} | options
    torch.manual_seed(0)
    slim.save(timm.create_model("vit_tiny_patch16_224", **shape), "saved")
    spoil(Path("saved"))
    return ["--model", "./saved"]


def checkpoint_as_model() -> list[str]:
    write_tensors("saved", "model", "vit-slim mask checkpoint", {"a": torch.ones(1)}, {})
    return ["--model", "./saved"]


def yaml(text: str) -> list[str]:
    Path("given.yaml").write_text(text)
    return ["--config", "given.yaml"]


def images(classes: tuple[str, ...] = ("cat", "dog"), count: int = 12) -> list[str]:
    write_image_folder(Path("images"), classes, count, size=8)
    return ["--data", "./images"]


def splits(train: tuple[str, ...], val: tuple[str, ...]) -> list[str]:
    for split, classes in (("train", train), ("val", val), ("test", train)):
        write_image_folder(Path("images") / split, classes, 4, size=8)
    return ["--data", "./images"]


def folder_without_images() -> list[str]:
    Path("images/cat").mkdir(parents=True)
    return ["--data", "./images"]


def empty_class() -> list[str]:
    arguments = images()
    Path("images/empty").mkdir()
    return arguments


def empty_torchvision_root() -> list[str]:
    Path("data").mkdir()
    return ["--data", "torch/food101:data"]


def pickled_batch() -> list[str]:
    """One that would make a folder."""
    torchvision_files.cifar10(Path("data"))
    batch = Path("data/cifar-10-batches-py/data_batch_2")
    torchvision_files.batch_file(batch, torchvision_files.Evil())
    return ["--data", "torch/cifar10:data"]


def taken_name() -> list[str]:
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/trials.csv").write_text("mine")
    return ["--name", "mine"]


def stored_run(text: str) -> list[str]:
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/config.yaml").write_text(text)
    return ["--resume", "mine"]


def storage_below_a_file() -> list[str]:
    Path("file").write_text("")
    return ["--storage", "file/below"]


CASES: dict[str, Callable[[], list[str]]] = {
    "an unknown option": lambda: ["--foo", "1"],
    "an abbreviated option": lambda: ["--tria", "3"],
    "a word for a number": lambda: ["--trials", "many"],
    "no trials": lambda: ["--trials", "0"],
    "a budget of 0": lambda: ["--space.mhsa_min", "0"],
    "early stopping that lets all go on": lambda: ["--finetune.reduction", "1"],
    "a rate without end": lambda: ["--dense.lr", "inf"],
    "a penalty that draws masks up": lambda: ["--search.penalty.mhsa", "-1"],
    "a space of one network": lambda: ["--space", "mhsa", "--space.mhsa_min", "1"],
    "a target above the limit": lambda: ["--target-gmacs", "0.002", "--max-gmacs", "0.001"],
    "weights for a fresh model": lambda: ["--weights", "small.safetensors"],
    "sharing for no epoch": lambda: ["--method", "share", "--share.epochs", "0"],
    "half a GPU for each of two workers": lambda: [
        *("--workers-per-trial", "2", "--gpus-per-trial", "0.5"),
    ],
    "a batch that workers cannot share": lambda: ["--workers-per-stage", "3"],
    "a batch that workers of trials cannot share": lambda: ["--workers-per-trial", "3"],
    "a transfer task without a name": lambda: ["--tasks", "digits,"],
    "a transfer task beside all": lambda: ["--tasks", "auto,digits"],
    "an option that no report reads": lambda: ["--report", "mine", "--trials", "5"],
    "two things to do": lambda: ["--resume", "mine", "--report", "mine"],
    "another name on resuming": lambda: ["--resume", "mine", "--name", "yours"],
    "a budget above 1": lambda: ["--space.uniform", "[0.5, 1.5]"],
    "a name with a separator": lambda: ["--name", "a/b"],
    "a name that leads up": lambda: ["--name", ".."],
    "a name with a space": lambda: ["--name", "a b"],
    "a name of another script": lambda: ["--name", "прогон"],
    "a name with a line break": lambda: ["--name", "a\nb"],
    "a name of markup": lambda: ["--name", "<script>"],
    "a name that is taken": taken_name,
    "a run that never was": lambda: ["--resume", "never-ran"],
    "the search of a run that never was": lambda: ["--searched", "never-ran"],
    "a run whose values are no YAML": lambda: stored_run("trials: ["),
    "a run whose values are out of range": lambda: stored_run("trials: -1\n"),
    "fewer trials on resuming": lambda: [*stored_run("trials: 4\n"), "--trials", "3"],
    "a run of a newer release": lambda: stored_run("trials: 2\nwarp: 9\n"),
    "YAML with an unknown key": lambda: yaml("trails: 3\n"),
    "YAML with a key twice": lambda: yaml("trials: 3\ntrials: 4\n"),
    "YAML with a Python tag": lambda: yaml("name: !!python/object/apply:os.mkdir [pwned]\n"),
    "YAML of comments alone": lambda: yaml("# trials: 3\n"),
    "YAML that is a list": lambda: yaml("- 1\n- 2\n"),
    "YAML with a number for a stage": lambda: yaml("search: 5\n"),
    "YAML that breaks off": lambda: yaml("trials: [1\n"),
    "YAML that is no text": lambda: (
        Path("given.yaml").write_bytes(b"\xff\xfe\x00"),
        ["--config", "given.yaml"],
    )[1],
    "a model that timm does not know": lambda: ["--model", "vit_smal_patch16_224"],
    "a model that cannot be slimmed": lambda: ["--model", "resnet18"],
    "a saved network that is not there": lambda: ["--model", "./nowhere"],
    "a saved network of other classes": lambda: saved(num_classes=7),
    "a saved network of other channels": lambda: saved(in_chans=3),
    "a mask checkpoint for a network": checkpoint_as_model,
    "weights that are truncated": lambda: saved(damage.WEIGHTS["truncated"]),
    "weights with a bit flipped": lambda: saved(damage.WEIGHTS["bit flipped in the values"]),
    "weights that are a pickle": lambda: saved(lambda at: damage.put_pickle(at, Path("pwned"))),
    "weights with a tensor more": lambda: saved(damage.WEIGHTS["extra tensor"]),
    "weights with a tensor less": lambda: saved(damage.WEIGHTS["missing tensor"]),
    "weights of another shape": lambda: saved(damage.WEIGHTS["an element short"]),
    "weights with NaN": lambda: saved(damage.WEIGHTS["NaN"]),
    "a header that is no JSON": lambda: saved(damage.HEADER["not JSON"]),
    "a header of a newer version": lambda: saved(lambda at: damage.edit_header(at, version=3)),
    "a saved network without weights": lambda: saved(damage.WEIGHTS["missing"]),
    "a saved network without header": lambda: saved(lambda at: (at / HEADER).unlink()),
    "data that do not exist": lambda: ["--data", "./nowhere"],
    "data of an unknown name": lambda: ["--data", "nope"],
    "a folder without images": folder_without_images,
    "a folder of one class": lambda: images(("cat",)),
    "a class without images": empty_class,
    "a class in val only": lambda: splits(("cat", "dog"), ("cat", "dog", "owl")),
    "fewer images than a batch": lambda: [*images(), "--dense.epochs", "1", "--model", "test_vit"],
    "a data set of torchvision without its folder": lambda: ["--data", "torch/food101"],
    "a data set of torchvision that is not there": empty_torchvision_root,
    "a data set that torchvision lacks": lambda: ["--data", "torch/food102"],
    "a pickle for a batch of CIFAR": pickled_batch,
    "a data set of the hub that was not asked for": lambda: ["--data", "hfds/user/pets"],
    "a data set that only streams": lambda: ["--data", "tfds/cifar10"],
    "a storage below a file": storage_below_a_file,
    "a password in the tracking URI": lambda: ["--tracking-uri", "http://me:secret@host:5000"],
    "a database that cannot be": lambda: ["--tracking-uri", "sqlite:////dev/null/x.db"],
    "an address without a cluster": lambda: ["--cluster", "127.0.0.1:1"],
}


def told(make: Callable[[], list[str]], cwd: Path) -> tuple[str, int]:
    """What the program says of a case, without the folder it is tried in; and the exit code.

    Raises:
        AssertionError: If it says more than a line, or leaves something behind.
    """
    before, err, out = Path.cwd(), io.StringIO(), io.StringIO()
    os.chdir(cwd)
    try:
        arguments = make()
        standing = sorted(cwd.rglob("*"))
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
            code = run_sweep.main(arguments)
        left = [path for path in sorted(cwd.rglob("*")) if path not in standing]
        assert left in ([], [cwd / "runs"]), left
    finally:
        os.chdir(before)
    line = err.getvalue()
    assert line.count("\n") == 1, line
    assert out.getvalue() == ""
    return line.removeprefix("run_sweep.py: ").strip().replace(f"{cwd.resolve()}/", ""), code


def line_of(case: str, message: str, code: int) -> str:
    """The case's line in the table."""
    shown = message.replace("|", "\\|").replace("<", "&lt;")
    return f"| {case} | {shown} | {code} |"


def main() -> None:
    """Write the table."""
    lines = []
    for case, make in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            lines.append(line_of(case, *told(make, Path(folder).resolve())))
    TABLE.write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
