"""Configurations are read whole, and every value is reachable from the command line."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from slim.recipe import Recipe
from slim.tasks import Augmentation
from sweeps.cli import check_name, make_parser, parse
from sweeps.config import SweepConfig, flatten, from_dict
from sweeps.pipeline import default_name
from sweeps.run_folder import RunFolder
from sweeps.space import target_gmacs
from sweeps.stage_config import TrainConfig
from tests.sweeps.conftest import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_configuration_is_accepted(path: Path) -> None:
    config = parse(["--config", str(path), "--data", "digits"]).config
    assert config.finetune.recipe().epochs == config.finetune.epochs


@pytest.mark.parametrize(("size", "batch", "width"), [("small", 1024, 384), ("base", 512, 768)])
def test_the_papers_configurations_say_what_the_papers_say(
    size: str, batch: int, width: int
) -> None:
    config = parse(["--config", str(ROOT / "configs" / f"paper_deit_{size}.yaml")]).config
    search, tune = config.search, config.finetune.recipe()
    assert (search.epochs, search.batch_size, search.lr) == (50, batch, 5e-4)
    assert (search.weight_decay, search.sched, search.clip_grad) == (1e-3, "constant", 0)
    weights = (search.penalty.tokens, search.penalty.mhsa, search.penalty.mlp)
    sums = (1e-4 * 12 * 196, 2e-4 * 12 * width, 5e-5 * 12 * 4 * width)
    assert weights == pytest.approx(sums)
    assert (tune.epochs, tune.batch_size, tune.sched, tune.warmup_epochs) == (
        300,
        batch,
        "cosine",
        5,
    )
    assert tune.lr == pytest.approx(5e-4 * batch / 512)
    assert (tune.weight_decay, tune.drop_path, tune.clip_grad) == (0.05, 0.1, 0)
    assert (tune.mixup, tune.cutmix, tune.label_smoothing) == (0.8, 1.0, 0.1)
    assert tune.ema_decay == 0.99996
    assert tune.augmentation == Augmentation(
        hflip=0.5,
        auto_augment="rand-m9-mstd0.5-inc1",
        random_erasing=0.25,
        crop_scale=0.08,
        aug_repeats=3,
    )
    assert (config.finetune.distillation, config.finetune.repair_images) == (0, 0)


def test_the_command_line_overrides_the_yaml_which_overrides_the_default(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("trials: 5\nsearch: {epochs: 7, penalty: {mlp: 0.5}}\n")
    arguments = ["--config", str(path), "--search.epochs", "9", "--tracking-uri", "http://h:1"]
    config = parse(arguments).config
    assert config.trials == 5
    assert config.search.epochs == 9
    assert config.search.penalty.mlp == 0.5
    assert config.search.penalty.mhsa == SweepConfig().search.penalty.mhsa
    assert config.tracking_uri == "http://h:1"


def test_what_is_judged_trained_and_shared_follows_the_method() -> None:
    methods = {name: parse(["--method", name]).config for name in ("judge", "share", "retrain")}
    assert methods["judge"] == parse([]).config
    epochs = [config.share.epochs for config in methods.values()]
    budgets = [config.judge.budgets for config in methods.values()]
    assert (epochs, budgets) == ([0, 5, 0], [250, 250, 0])
    assert {config.finetune.repair_images for config in methods.values()} == {1024}


def test_dashes_and_underscores_are_alike() -> None:
    assert parse(["--tracking_uri", "http://h:1"]).config.tracking_uri == "http://h:1"
    assert parse(["--search.mask-lr", "0.5"]).config.search.mask_lr == 0.5


def test_paths_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = parse(["--data", "./images", "--model", "saved/net", "--storage", "out"]).config
    assert config.data == str(tmp_path / "images")
    assert config.model == str(tmp_path / "saved" / "net")
    assert config.storage == str(tmp_path / "out")
    assert config.tracking_uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    fashion = parse(["--data", "fashion-mnist:./idx"]).config
    assert fashion.data == f"fashion-mnist:{tmp_path / 'idx'}"
    part = parse(["--data", "fashion-mnist-500:./idx"]).config
    assert part.data == f"fashion-mnist-500:{tmp_path / 'idx'}"
    (tmp_path / "parquet").mkdir()
    tasks = parse(["--tasks", "torch/cifar10:./c, hfds/./parquet:cache, hfds/user/pets"]).config
    assert tasks.tasks.split(",") == [
        f"torch/cifar10:{tmp_path / 'c'}",
        f"hfds/{tmp_path / 'parquet'}:{tmp_path / 'cache'}",
        "hfds/user/pets",
    ]


def test_a_configuration_survives_json() -> None:
    config = parse(["--trials", "3", "--space.uniform", "[0.5,0.25]", "--verbose"]).config
    assert from_dict(SweepConfig, json.loads(json.dumps(config.to_dict()))) == config
    assert config.verbose is True
    assert type(config.trials) is int


def test_help_explains_every_value(capsys: pytest.CaptureFixture[str]) -> None:
    parser = make_parser()
    text = " ".join(parser.format_help().split())
    for name in flatten(SweepConfig().to_dict()):
        option = name if "." in name else name.replace("_", "-")
        assert f"--{option} " in text, name
        start = text.rindex(f"--{option} ")
        meaning = text[start + len(option) + 3 :].partition("(type:")[0]
        assert len(meaning.split()) >= 3, (name, meaning)


def test_a_stage_can_set_every_field_of_a_recipe() -> None:
    ours = {field.name for field in fields(TrainConfig)}
    theirs = {field.name for field in (*fields(Recipe), *fields(Augmentation))}
    assert ours == theirs - {"augmentation"}


@pytest.mark.parametrize(
    "text",
    ["1e-5", "1E-3", "12e5", "-1.5e3", "+1e3", "1e", "0x1f", "1_000", "yes", "1:30", ".5", "07"],
)
def test_text_that_looks_like_a_number_is_read_back_as_text(text: str, tmp_path: Path) -> None:
    config = replace(parse([]).config, name=text, target_gmacs=text, data=f"/{text}")
    folder = RunFolder(tmp_path, text)
    folder.path.mkdir()
    folder.write_config(config)
    assert folder.read_config() == config


def test_a_single_target_may_be_a_number_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("target_gmacs: 0.5\n")
    config = parse(["--config", str(path)]).config
    assert config.target_gmacs == parse(["--target-gmacs", "0.5"]).config.target_gmacs == "0.5"
    assert target_gmacs(config) == [0.5]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["--trials", "3", "--search.epochs=2"], {"trials", "search.epochs"}),
        (["--search.penalty.mlp", "1"], {"search.penalty.mlp"}),
        (["--search.penalty", '{"mlp": 1}'], {"search.penalty.mlp"}),
        (
            ["--search", '{"penalty": {"mlp": 1}, "epochs": 2}'],
            {"search.penalty.mlp", "search.epochs"},
        ),
        (["--space.uniform+=0.5"], {"space.uniform"}),
        (["--space", "mhsa"], {"space.dimensions"}),
    ],
)
def test_what_was_given_is_known_however_it_was(arguments: list[str], given: set[str]) -> None:
    assert parse(arguments).given == given


@pytest.mark.parametrize("name", ["vit", "vit_tiny_patch16_224", "deit_small_patch16_224.fb_in1k"])
def test_the_name_of_a_model_is_one_where_a_folder_has_it_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (name, "mine"):
        Path(folder).mkdir()
    assert parse(["--model", name]).config.model == name
    assert parse(["--model", f"./{name}"]).config.model == str(tmp_path / name)
    assert parse(["--model", "mine"]).config.model == str(tmp_path / "mine")


@pytest.mark.parametrize(
    "data",
    ["digits", "/data/Blümen", "/data/_pets", "/data/.cache", "/d/a..b", "/", "/d/" + "x" * 300],
)
def test_a_default_name_can_be_resumed(data: str) -> None:
    name = default_name(replace(SweepConfig(), data=data, model="/m/.net"))
    check_name(name)
    assert re.search(r"net-\d{8}-\d{6}$", name)
