"""Small data sets on disk, in the layouts that torchvision reads."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat


def image(path: Path, number: int) -> None:
    """An image of one colour, which is its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number,) * 3).save(path)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def cifar10(root: Path, per_batch: int = 20) -> None:
    """Images of one colour, the same in each image of a class."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for file in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        labels = [index % 2 for index in range(per_batch)]
        data = np.repeat(np.array(labels, np.uint8)[:, None] * 200, 3072, axis=1)
        data[:, 1024:2048] = 7  # green
        batch_file(folder / file, {"data": data, "labels": labels})
    batch_file(folder / "batches.meta", {"label_names": ["cat", "dog"]})


def batch_file(path: Path, value: object) -> None:
    """Pickled as Python 2 and NumPy 1 did: an array's bytes are a string."""
    pickled = pickle.dumps(value, protocol=3).replace(b"numpy._core.", b"numpy.core.")
    if isinstance(value, dict) and isinstance(value.get("data"), np.ndarray):
        raw = value["data"].tobytes()
        size = len(raw).to_bytes(4, "little")
        assert b"B" + size + raw in pickled
        pickled = pickled.replace(b"B" + size + raw, b"T" + size + raw)
    path.write_bytes(pickled)


def cifar100(root: Path) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    labels = [index % 2 for index in range(20)]
    batch = {"data": np.zeros((20, 3072), np.uint8), "fine_labels": labels, "coarse_labels": [0]}
    batch_file(folder / "train", batch)
    batch_file(folder / "test", batch)
    batch_file(folder / "meta", {"fine_label_names": ["apple", "bear"]})


def mnist(root: Path, kind: str = "MNIST") -> None:
    """IDX files, whose images are all of their label's shade."""
    folder = root / kind / "raw"
    folder.mkdir(parents=True)
    for split, count in (("train", 200), ("t10k", 30)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.repeat(labels, 28 * 28)
        heads = b"".join(size.to_bytes(4, "big") for size in (0x803, count, 28, 28))
        (folder / f"{split}-images-idx3-ubyte").write_bytes(heads + images.tobytes())
        heads = b"".join(size.to_bytes(4, "big") for size in (0x801, count))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(heads + labels.tobytes())


def flowers102(root: Path) -> None:
    """torchvision checks the sums of its label files, which tests take back."""
    folder = root / "flowers-102"
    splits = {"trnid": range(1, 7), "valid": range(7, 10), "tstid": range(10, 13)}
    for number in range(1, 13):
        image(folder / "jpg" / f"image_{number:05d}.jpg", number)
    savemat(folder / "imagelabels.mat", {"labels": np.arange(12) % 3 + 1})
    savemat(folder / "setid.mat", {key: np.array(ids) for key, ids in splits.items()})


def stanfordcars(root: Path) -> None:
    folder = root / "stanford_cars"
    kinds = np.dtype([("fname", object), ("class", np.uint8)])
    for split, file in (
        ("train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test_annos_withlabels.mat"),
    ):
        rows = np.array([(f"{n:05d}.jpg", n % 2 + 1) for n in range(40)], dtype=kinds)
        for number in range(40):
            image(folder / f"cars_{split}" / f"{number:05d}.jpg", number)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        savemat(folder / file, {"annotations": rows})
    names = np.array(["Audi", "BMW"], dtype=object)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": names})


def oxfordiiitpet(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    for split in ("trainval", "test"):
        lines = []
        for number in range(20):
            name = f"{('beagle', 'bengal')[number % 2]}_{split}{number}"
            image(folder / "images" / f"{name}.jpg", number)
            lines.append(f"{name} {number % 2 + 1} 1 1")
        text(folder / "annotations" / f"{split}.txt", *lines)


def food101(root: Path) -> None:
    for split in ("train", "test"):
        meta = {food: [f"{food}/{split}{n}" for n in range(10)] for food in ("sushi", "pizza")}
        for paths in meta.values():
            for number, path in enumerate(paths):
                image(root / "food-101" / "images" / f"{path}.jpg", number)
        text(root / "food-101" / "meta" / f"{split}.json", json.dumps(meta))


def eurosat(root: Path) -> None:
    for name in ("Forest", "River"):
        for number in range(20):
            image(root / "eurosat" / "2750" / name / f"{name}_{number}.jpg", number)


def sun397(root: Path) -> None:
    names = ("/a/abbey", "/b/barn/door")
    text(root / "SUN397" / "ClassName.txt", *names)
    for name in names:
        for number in range(20):
            image(root / "SUN397" / name[1:] / f"sun_{number}.jpg", number)


def dtd(root: Path) -> None:
    folder = root / "dtd" / "dtd"
    for split in ("train", "val", "test"):
        names = [f"{('banded', 'dotted')[n % 2]}/{split}{n}.jpg" for n in range(8)]
        for number, name in enumerate(names):
            image(folder / "images" / name, number)
        text(folder / "labels" / f"{split}1.txt", *names)


def fgvcaircraft(root: Path) -> None:
    folder = root / "fgvc-aircraft-2013b" / "data"
    text(folder / "variants.txt", "707-320", "727-200")
    for offset, split in enumerate(("train", "val", "test")):
        lines = []
        for number in range(8):
            name = f"{offset}{number:06d}"
            image(folder / "images" / f"{name}.jpg", number)
            lines.append(f"{name} {('707-320', '727-200')[number % 2]}")
        text(folder / f"images_variant_{split}.txt", *lines)


def gtsrb(root: Path) -> None:
    folder = root / "gtsrb" / "GTSRB"
    for label in range(2):
        for number in range(10):
            image(folder / "Training" / f"{label:05d}" / f"{number}.ppm", number)
    lines = ["Filename;ClassId"]
    for number in range(6):
        image(folder / "Final_Test" / "Images" / f"{number}.ppm", number)
        lines.append(f"{number}.ppm;{number % 2}")
    text(root / "gtsrb" / "GT-final_test.csv", *lines)


def country211(root: Path) -> None:
    for split in ("train", "valid", "test"):
        for name in ("AD", "ZW"):
            for number in range(4):
                image(root / "country211" / split / name / f"{number}.jpg", number)


def inaturalist(root: Path) -> None:
    for version in ("2021_train", "2021_valid"):
        for label, species in enumerate(("lynx", "ocelot")):
            taxa = f"{label:05d}_Animalia_Chordata_Mammalia_Carnivora_Felidae_Cats_{species}"
            for number in range(10):
                image(root / version / taxa / f"{number}.jpg", number)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "country211": country211,
    "dtd": dtd,
    "eurosat": eurosat,
    "fashionmnist": lambda root: mnist(root, "FashionMNIST"),
    "fgvcaircraft": fgvcaircraft,
    "flowers102": flowers102,
    "food101": food101,
    "gtsrb": gtsrb,
    "inaturalist": inaturalist,
    "kmnist": lambda root: mnist(root, "KMNIST"),
    "mnist": mnist,
    "oxfordiiitpet": oxfordiiitpet,
    "stanfordcars": stanfordcars,
    "sun397": sun397,
}


class Evil:
    """Makes a folder when it is unpickled by a reader that runs what a pickle says."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("made",)
