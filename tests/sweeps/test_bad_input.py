"""Bad input ends with one line on stderr and exit code 2, before anything starts or is written."""

import socket
from pathlib import Path

import pytest
import timm

import run_sweep
import slim
from sweeps.cli import parse
from tests.sweeps.images import write_image_folder


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str], *expected: str
) -> None:
    assert run_sweep.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("run_sweep.py: ")
    assert err.count("\n") == 1
    for words in expected:
        assert words in err
    assert not Path("runs").exists() or not any(Path("runs").iterdir())
    assert not Path("mlflow.db").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--foo", "1"], "--foo"),
        (["--trails", "3"], "near: --trials"),
        (["--dense.epoch", "3"], "near: --dense.epochs"),
        (["--tria", "3"], "--tria"),
        (["--search.ep", "3"], "--search.ep"),
        (["--trials", "x"], "--trials"),
        (["--trials", "2.5"], "--trials"),
        (["--trials", "0"], "--trials"),
        (["--trials", "-1"], "--trials"),
        (["--concurrency", "0"], "--concurrency"),
        (["--dense.epochs", "many"], "--dense.epochs"),
        (["--finetune.lr", "0"], "--finetune.lr"),
        (["--search.amp", "float8"], "--search.amp"),
        (["--space.tokens_min", "0"], "--space.tokens_min"),
        (["--space.mhsa_min", "1.2"], "--space.mhsa_min"),
        (["--space.uniform", "[0.5, 1.5]"], "--space.uniform"),
        (["--seed", "-3"], "--seed"),
        (["--name", "a/b"], "'a/b'"),
        (["--name", ".."], "'..'"),
        (["--name", "a..b"], "'a..b'"),
        (["--name", "a b"], "'a b'"),
        (["--name", ""], "''"),
        (["--resume", "never-ran"], "never-ran"),
        (["--resume", "../other"], "'../other'"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--model", "vit_smal_patch16_224"], "vit_small_patch16_224"),
        (["--model", "./no-such-folder"], "no-such-folder"),
        (["--model", "resnet18", "--dense.epochs", "1"], "ResNet"),
        (["--model", "vit_tiny_patch16_224"], "1000 classes"),
        (["--model", "vit_tiny_patch16_224", "--weights", "none.pt"], "none.pt"),
        (["--model", "vit_tiny_patch16_224", "--no-pretrained"], "--no-pretrained"),
        (["--vit.patch_size", "5"], "--vit.patch_size"),
        (["--tasks", "digits,nope"], "'nope'"),
        (["--data", "nope"], "'nope'"),
        (["--data", "./missing"], "missing"),
        (["--data", "torch/cifar10"], "--data: data torch/cifar10 needs an existing folder"),
        (["--tasks", "torch/pets:."], "--tasks: data torch/pets:"),
        (["--tasks", "digits,hfds/user/pets"], "--tasks: data hfds/user/pets: 'user/pets'"),
        (["--tasks", "tfds/cifar10"], "--tasks: data tfds/cifar10 is a stream"),
        (["--finetune.batch_size", "100000"], "--finetune.batch_size"),
        (["--finetune.auto_augment", "rand-m9"], "--finetune: data mnist lies in memory"),
        (["--transfer.crop_scale", "0.5"], "--transfer: data digits lies in memory"),
        (["--search.token_mask", "tanh", "--search.score", "taylor"], "--search.token_mask log"),
        (["--search.accumulation", "0"], "--search.accumulation"),
        (["--search.accumulation", "65"], "--search.accumulation 65 is more than the batch"),
        (["--dense.layer_decay", "0"], "--dense.layer_decay"),
        (["--finetune.layer_decay", "1.1"], "--finetune.layer_decay"),
        (["--transfer.aug_repeats", "0"], "--transfer.aug_repeats"),
        (["--finetune.grad_checkpointing", "2"], "--finetune.grad_checkpointing"),
        (["--seed", "99999999999"], "--seed"),
        (["--model", "deit_small_patch16_224.bogus"], "bogus"),
        (["--storage", "s3://bucket/runs"], "s3://bucket/runs"),
        (["--storage", "s3://KEY:SECRET@bucket/runs"], "the storage URI holds a key"),
        (["--storage", "s3://bucket/runs?access_key=k&secret_key=s"], "credentials are taken"),
        (["--tracking-uri", "postgresql://me:pa/ss@host/db"], "holds a password"),
        (["--tracking-uri", "postgresql://host/db?user=me&password=s"], "holds a password"),
        (["--tracking-uri", "http://me:secret@host:5000"], "MLFLOW_TRACKING_PASSWORD"),
        (["--tracking-uri", "https://dapi0123@host"], "MLFLOW_TRACKING_TOKEN"),
        (["--tracking-uri", "https://host/x?sig=abc"], "holds a password"),
        (["--tracking-uri", "https://host?api_key=abc"], "holds a password"),
        (["--tracking-uri", "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dabc"], "a password"),
        (["--resume", "null"], "there is no run null"),
        (["--finetune.reduction", "16"], "--finetune.reduction 16 stops no trial of 8 epochs"),
        (["--kept-images-gb", "inf"], "--kept-images-gb"),
        (["--space.tokens_min", "0.01"], "--space"),
        (["--transfer.img_size", "30"], "--transfer.img_size 30: images of 30 x 30"),
        (["--transfer.batch_size", "100000"], "--transfer.batch_size"),
        (["--search.opt", "adamwx"], "--search.opt adamwx"),
        (["--finetune.sched", "coosine"], "--finetune.sched"),
        (["--cluster", "nonsense"], "'nonsense'"),
        (["--cluster", "127.0.0.1:1"], "127.0.0.1:1"),
        (["--tracking-uri", "sqlite:////dev/null/x.db"], "--tracking-uri"),
        (["--cpus-per-trial", "4096"], "--cpus-per-trial"),
        (["--share.epochs", "3"], "--method judge, but with --method share; leave one out"),
        (["--method", "retrain", "--judge.budgets", "9"], "with --method judge or share;"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_values_are_refused_in_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(arguments, capsys, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trails: 3\n", "trails"),
        ("search:\n  epoch: 3\n", "epoch"),
        ("name: !!python/object/apply:os.mkdir [pwned]\n", "python"),
        ("trials: [1\n", "line"),
        ("- 1\n- 2\n", "config"),
        ("trials: 3\ntrials: 4\n", "trials"),
        ("trials: null\n", "--trials null"),
        ("finetune:\n  repair_images: null\n", "--finetune.repair_images null"),
    ],
)
def test_bad_yaml_is_refused(text: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text(text)
    assert_refused(["--config", "bad.yaml"], capsys, expected)
    assert not Path("pwned").exists()


@pytest.mark.parametrize(("num_classes", "in_chans"), [(7, 1), (10, 3)])
def test_a_saved_model_that_does_not_fit_the_data_is_refused(
    num_classes: int, in_chans: int, capsys: pytest.CaptureFixture[str]
) -> None:
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=1, num_classes=num_classes, in_chans=in_chans
    )
    slim.save(vit, "saved")
    assert_refused(["--model", "./saved"], capsys, "saved", "mnist")


def test_a_folder_with_one_class_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write_image_folder(Path("images"), ("cat",), 12)
    assert_refused(["--data", "./images"], capsys, "1 class", "cat")


def test_a_folder_without_images_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("images/cat").mkdir(parents=True)
    assert_refused(["--data", "./images"], capsys, "no images")


def test_a_name_that_exists_is_refused_and_left_as_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("runs/first").mkdir(parents=True)
    Path("runs/first/trials.csv").write_text("mine")
    assert run_sweep.main(["--name", "first"]) == 2
    err = capsys.readouterr().err
    assert "--resume first" in err
    assert err.count("\n") == 1
    assert [p.name for p in Path("runs/first").iterdir()] == ["trials.csv"]
    assert Path("runs/first/trials.csv").read_text() == "mine"


def test_a_storage_that_cannot_be_written_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert_refused(["--storage", "file/below"], capsys, "--storage")


def test_a_server_that_is_no_ray_cluster_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.cluster.ANSWER_SECONDS", 4)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert_refused(["--cluster", address], capsys, address, "within 4 s")


@pytest.mark.parametrize("option", ["--storage", "--tracking-uri"])
@pytest.mark.parametrize("uri", ["s3://KEY:hidden@bucket/runs", "https://hidden@host/runs"])
def test_a_key_that_is_refused_is_not_repeated(
    option: str, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_sweep.main([option, uri]) == 2
    assert "hidden" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "uri",
    [
        *("http://127.0.0.1:5000", "https://host/a@b?x=1", "sqlite:////a@b.db", "databricks"),
        *("postgresql://me@host/db", "mysql+pymysql://me@host/db?ssl_key=/key.pem"),
        "mssql+pyodbc:///?odbc_connect=Server%3Dhost%3BTrusted_Connection%3Dyes",
    ],
)
def test_a_uri_without_a_secret_is_taken(uri: str) -> None:
    assert parse(["--tracking-uri", uri]).config.tracking_uri == uri


def test_a_bucket_may_have_any_prefix() -> None:
    assert parse(["--storage", "s3://bucket/team@lab/runs"]).config.storage.endswith("@lab/runs")
