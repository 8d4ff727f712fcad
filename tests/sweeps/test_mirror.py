"""Files go to a bucket of a real S3 server and come back, on another machine too."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed

import sweeps.mirror
from slim import StoppedTraining
from sweeps.config import SweepConfig
from sweeps.errors import InputError
from sweeps.mirror import MARK, Mirror, mirrored, stamps, working_folder
from sweeps.run_folder import RunFolder
from tests.sweeps.buckets import s3_server


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"mirrors-{uuid.uuid4().hex}"
    with s3_server(name) as environment:
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        yield f"s3://{name}/some/runs"


def here_and_there(uri: str, tmp_path: Path) -> tuple[Mirror, Mirror]:
    """One storage as two machines see it."""
    return Mirror(uri, tmp_path / "here"), Mirror(uri, tmp_path / "there")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_what_one_machine_keeps_another_fetches(bucket: str, tmp_path: Path) -> None:
    here, there = here_and_there(bucket, tmp_path)
    write(here.folder / "run" / "models" / "1" / "config.json", "{}")
    write(here.folder / "run" / "models" / "2" / "config.json", "[]")
    here.keep(here.folder / "run")
    there.fetch(there.folder / "run" / "models" / "2")
    assert (there.folder / "run" / "models" / "2" / "config.json").read_text() == "[]"
    assert not (there.folder / "run" / "models" / "1").exists()
    assert [path.name for path in (there.folder / "run" / "models" / "2").iterdir()] == [
        "config.json"
    ]


def test_a_file_that_was_written_anew_is_fetched_again(bucket: str, tmp_path: Path) -> None:
    here, there = here_and_there(bucket, tmp_path)
    state, seen = here.folder / "run" / "state.pt", there.folder / "run" / "state.pt"
    for text in ("one", "two"):
        here.keep(write(state, text))
        os.utime(seen, (0, 0)) if seen.exists() else None
        there.fetch(seen)
        assert seen.read_text() == text


def test_what_a_worker_left_without_its_copy_is_kept_by_the_next_one(
    bucket: str, tmp_path: Path
) -> None:
    here, there = here_and_there(bucket, tmp_path)
    network = here.folder / "run" / "repeats" / "3-1"
    os.utime(write(network / "config.json", "{}"), (100, 100))
    assert list(mirrored(here, [network], lambda: iter(["read"]))) == ["read"]
    there.fetch(there.folder / "run")
    assert (there.folder / "run" / "repeats" / "3-1" / "config.json").read_text() == "{}"


def test_each_file_is_copied_once(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = here_and_there(bucket, tmp_path)
    there.keep(write(there.folder / "run" / "3" / "training.pt", "step 7"))
    network, state = here.folder / "run" / "models", here.folder / "run" / "3" / "training.pt"
    copied: list[str] = []
    upload = sweeps.mirror._upload

    def counted(system: object, ours: Path, kept: str) -> None:
        copied.append(ours.name)
        upload(system, ours, kept)

    monkeypatch.setattr(sweeps.mirror, "_upload", counted)

    def train() -> Iterator[int]:
        assert state.read_text() == "step 7"
        yield 0
        write(state, "epoch 1")
        yield 1
        write(network / "config.json", "{}")
        yield 2

    copies = [list(copied) for _ in mirrored(here, [network, state.parent], train)]
    assert copies == [[], ["training.pt"], ["training.pt", "config.json"]]
    assert copied == copies[-1]


def test_the_state_of_a_training_that_was_asked_to_stop_is_kept(
    bucket: str, tmp_path: Path
) -> None:
    here, there = here_and_there(bucket, tmp_path)
    state = here.folder / "run" / "training.pt"

    def train() -> Iterator[int]:
        yield 0
        write(state, "step 7")
        raise StoppedTraining("stopped as asked")

    with pytest.raises(StoppedTraining):
        list(mirrored(here, [state], train))
    there.fetch(there.folder / "run")
    assert (there.folder / "run" / "training.pt").read_text() == "step 7"


def test_states_that_were_forgotten_do_not_come_back(bucket: str, tmp_path: Path) -> None:
    here, _ = here_and_there(bucket, tmp_path)
    folder = here.folder / "run"
    os.utime(write(folder / "3" / "training.pt", "old"), (100, 100))
    list(mirrored(here, [folder / "3"], lambda: iter(["only read"])))
    assert here.kept(folder) == set()


def test_files_of_an_earlier_run_of_that_name_are_removed_where_they_are_met(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(machine: str) -> RunFolder:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / machine))
        return RunFolder.create(SweepConfig(storage=bucket), "run")

    worker = Mirror(bucket, tmp_path / "worker")
    state = worker.folder / "run" / "state" / "trials" / "0" / "training.pt"
    earlier = begin("driver")
    list(mirrored(worker, [state], lambda: iter([write(state, "earlier")])))
    list(mirrored(worker, [state], lambda: iter([state.read_text()])))
    assert state.read_text() == "earlier"  # the same run
    earlier.mirror.drop(earlier.path)
    begin("other driver")
    assert list(mirrored(worker, [state], lambda: iter([state.exists()]))) == [False]
    assert worker.kept(state.parent) == set()
    left = write(earlier.path / "state" / "dense.pt", "earlier")  # on the first driver's machine
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "driver"))
    RunFolder.open(bucket, "run")
    assert not left.exists()


@pytest.mark.parametrize(
    ("kept", "ours", "left"),
    [("one\n", "one\ntwo\n", "one\ntwo\n"), ("one\nother\n", "one\ntwo\nthree\n", "one\nother\n")],
)
def test_a_log_that_goes_on_from_the_kept_one_is_left_as_it_is(
    bucket: str, tmp_path: Path, kept: str, ours: str, left: str
) -> None:
    here, there = here_and_there(bucket, tmp_path)
    here.keep(write(here.folder / "log", kept))
    log = write(there.folder / "log", ours)
    there.fetch_log(log)
    assert log.read_text() == left
    there.fetch_log(there.folder / "nothing")


def test_what_is_not_kept_is_not_fetched_and_what_is_dropped_is_gone(
    bucket: str, tmp_path: Path
) -> None:
    here, there = here_and_there(bucket, tmp_path)
    here.keep(write(here.folder / "run" / "state.pt", "one"))
    here.drop(here.folder / "run" / "state.pt")
    there.fetch(there.folder / "run" / "state.pt", there.folder / "nothing")
    assert not there.folder.exists()


def test_what_is_known_to_be_kept_is_not_copied_until_it_changes(
    bucket: str, tmp_path: Path
) -> None:
    here, there = here_and_there(bucket, tmp_path)
    old, new = (write(here.folder / "run" / name, name) for name in ("old", "new"))
    known = stamps([old])
    here.keep(here.folder / "run", known=known)
    there.fetch(there.folder / "run")
    assert [path.name for path in (there.folder / "run").iterdir()] == ["new"]
    assert known == stamps([here.folder / "run"])
    os.utime(write(old, "anew"), (100, 100))  # by a clock that was set back
    new.unlink()
    here.keep(here.folder / "run", known=known)
    assert {path.name for path in here.kept(here.folder / "run")} == {"new", "old"}


def test_a_newer_state_that_a_killed_worker_left_is_gone_on_from(
    bucket: str, tmp_path: Path
) -> None:
    here, _ = here_and_there(bucket, tmp_path)
    state = write(here.folder / "run" / "training.pt", "epoch 1")
    here.keep(state)
    write(state, "epochs 1 and 2")
    os.utime(state, (2**32, 2**32))
    assert list(mirrored(here, [state], lambda: iter([state.read_text()]))) == ["epochs 1 and 2"]


def go_on(rank: int, tmp_path: Path, uri: str) -> None:
    """One of two processes on machines of their own, which leaves what it went on from."""
    meeting = f"file://{tmp_path}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    mirror = Mirror(uri, tmp_path / f"machine {rank}")
    state = mirror.folder / "run" / "training.pt"
    (seen,) = mirrored(mirror, [state], lambda: iter([state.read_text()]))
    (tmp_path / f"seen {rank}").write_text(seen)


@pytest.mark.parametrize("other", [None, "epoch 1", "another step"])
def test_processes_that_train_together_go_on_from_the_state_of_the_first(
    bucket: str, tmp_path: Path, other: str | None
) -> None:
    here, _ = here_and_there(bucket, tmp_path)
    here.keep(write(here.folder / "run" / "training.pt", "epoch 1"))
    for rank, left in enumerate(("step 7", other)):
        if left:
            state = write(tmp_path / f"machine {rank}" / "run" / "training.pt", left)
            os.utime(state, (2**32, 2**32))
    torch.multiprocessing.spawn(go_on, (tmp_path, bucket), nprocs=2)
    assert {(tmp_path / f"seen {rank}").read_text() for rank in (0, 1)} == {"step 7"}


def test_the_folder_of_a_run_that_is_worked_on_is_not_removed(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = RunFolder.create(SweepConfig(storage=bucket), "run")
    with folder.alone():
        write(folder.journal, "line")
        (folder.path / MARK).unlink()
        list(mirrored(folder.mirror, [folder.search], lambda: iter(["judged"])))
        assert folder.journal.read_text() == "line"
        assert (folder.path / MARK).is_file()


def test_a_run_that_was_removed_from_its_bucket_is_no_run_and_its_name_is_free(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = RunFolder.create(SweepConfig(storage=bucket), "run")
    left = write(folder.journal, "earlier")
    with pytest.raises(InputError, match="run run exists in s3://"):
        RunFolder.create(SweepConfig(storage=bucket), "run")
    folder.mirror.drop(folder.path)
    with pytest.raises(InputError, match="there is no run run in s3://"):
        RunFolder.open(bucket, "run")
    assert left.read_text() == "earlier"
    RunFolder.create(SweepConfig(storage=bucket), "run")
    assert not left.exists()


def test_a_storage_that_cannot_be_used_is_refused_in_one_line(bucket: str) -> None:
    Mirror.of(bucket).check()
    with pytest.raises(InputError, match="storage s3://nowhere/x cannot be used") as refusal:
        Mirror.of("s3://nowhere/x").check()
    assert "\n" not in str(refusal.value)


def test_another_users_folder_is_not_worked_in(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mirror, refusal = Mirror.of(bucket), "is not a folder of this user's; have it removed"
    holder = mirror.folder.parent
    holder.mkdir(mode=0o755)
    mirror.check()
    assert holder.stat().st_mode & 0o777 == 0o700
    holder.rmdir()
    holder.symlink_to("/nowhere")
    with pytest.raises(InputError, match=refusal):
        mirror.check()
    holder.unlink()
    mirror.check()
    monkeypatch.setattr("os.getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(InputError, match=refusal):
        mirror.check()


def test_a_folder_is_worked_with_where_it_is(tmp_path: Path) -> None:
    assert working_folder(str(tmp_path)) == tmp_path
    mirror = Mirror.of(str(tmp_path))
    mirror.check()
    mirror.keep(tmp_path)
    mirror.fetch(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_reading_a_run_that_goes_on_here_leaves_its_files_as_they_are(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = RunFolder.create(SweepConfig(storage=bucket), "run")
    with folder.alone():
        write(folder.journal, "one")
        write(folder.progress, "one")
        folder.keep()
        write(folder.journal, "one, two")
        RunFolder.open(bucket, "run")
        assert folder.journal.read_text() == "one, two"
    write(folder.progress, "other")
    RunFolder.open(bucket, "run")
    assert folder.progress.read_text() == "one"
    assert folder.journal.read_text() == "one, two"  # it goes on from the one that is kept


def test_what_another_worker_still_writes_is_not_kept(bucket: str, tmp_path: Path) -> None:
    here, there = here_and_there(bucket, tmp_path)
    for name in ("training.draft", ".hidden", "kept.csv"):
        write(here.folder / "run" / name, name)
    here.keep(here.folder / "run")
    there.fetch(there.folder / "run")
    assert [path.name for path in (there.folder / "run").iterdir()] == ["kept.csv"]
