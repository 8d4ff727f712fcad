"""What is broadcast lies once in a node's memory, however many workers map it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import timm
import torch

import slim
from slim.calibration import Calibration
from slim.tasks import Preprocessing, load_task
from sweeps.broadcast import Broadcast, broadcast, receive_checkpoint, receive_teacher
from sweeps.config import SweepConfig
from sweeps.stage_config import FinetuneConfig
from sweeps.trial import TrialJob, receive_calibration

WORKERS = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def checkpoint() -> slim.MaskCheckpoint:
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=6, num_classes=10, in_chans=1
    )
    return slim.MaskCheckpoint.from_model(slim.attach_masks(vit))


@pytest.fixture(scope="module")
def shared(cluster: None, checkpoint: slim.MaskCheckpoint) -> Broadcast:
    dense = slim.extract(checkpoint, slim.Architecture.dense(checkpoint.spec))
    preprocessing = Preprocessing((1, 32, 32), (0.5,), (0.5,))
    return broadcast(checkpoint, dense, load_task("digits"), preprocessing)


def test_a_process_keeps_what_it_repairs_towards(
    shared: Broadcast, checkpoint: slim.MaskCheckpoint, tmp_path: Path
) -> None:
    task = load_task("digits")

    def calibration(seed: int, images: int, by: Broadcast = shared) -> Calibration | None:
        config = SweepConfig(seed=seed, finetune=FinetuneConfig(repair_images=images))
        return receive_calibration(task, TrialJob(config, by, *[tmp_path] * 3), "cpu")

    first = calibration(0, 64)
    assert first is calibration(0, 64)
    assert first is not None
    assert first.kept_bytes
    assert calibration(1, 64) is not first
    assert calibration(0, 64) is not first  # only the last one is kept
    more = calibration(0, 128)
    assert more is not None
    assert len(more.batches) == 2
    assert calibration(0, 0) is None
    dense = slim.extract(checkpoint, slim.Architecture.dense(checkpoint.spec))
    again = broadcast(checkpoint, dense, task, shared.preprocessing)
    assert calibration(0, 128, again) is not calibration(0, 128)


@ray.remote(num_cpus=1)
class Worker:
    """Maps the checkpoint and says where it lies."""

    def map(self, shared: Broadcast) -> dict[str, Any]:
        arrays = ray.get(shared.checkpoint)
        self.checkpoint = receive_checkpoint(shared)
        largest = max(arrays, key=lambda name: arrays[name].nbytes)
        address = arrays[largest].__array_interface__["data"][0]
        view = self.checkpoint.weights[largest.removeprefix("weight.")]
        return {
            "writeable": any(array.flags.writeable for array in arrays.values()),
            "is_view": view.data_ptr() == address,
            "place": mapped_place(address),
            "pid": os.getpid(),
        }

    def cut(self, shared: Broadcast) -> torch.Tensor:
        checkpoint = receive_checkpoint(shared)
        torch.manual_seed(1)
        images = torch.randn(2, *checkpoint.spec.input_size)
        with torch.no_grad():
            teacher: torch.Tensor = receive_teacher(shared)(images)
            architecture = checkpoint.select(slim.Budget(0.5, 0.5, 0.5))
            return torch.cat([teacher, slim.extract(checkpoint, architecture)(images)])


def mapped_place(address: int) -> tuple[str, str, int]:
    """Which file's memory an address belongs to: its name, its inode and the offset in it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, device, inode, *name = line.split(maxsplit=5)
        low, high = (int(part, 16) for part in span.split("-"))
        if low <= address < high:
            return name[0], f"{device} {inode}", address - low + int(offset, 16)
    raise AssertionError("address is not mapped")


def test_all_workers_of_a_node_map_one_copy(shared: Broadcast) -> None:
    workers = [Worker.remote() for _ in range(WORKERS)]  # type: ignore[attr-defined]
    seen = ray.get([worker.map.remote(shared) for worker in workers])
    assert all(not each["writeable"] and each["is_view"] for each in seen)
    assert len({each["pid"] for each in seen}) == WORKERS
    assert len({each["place"] for each in seen}) == 1  # the same bytes of the same file
    assert "plasma" in seen[0]["place"][0]


def test_a_network_cut_from_shared_memory_equals_one_cut_from_the_checkpoint(
    shared: Broadcast, checkpoint: slim.MaskCheckpoint
) -> None:
    theirs = ray.get(Worker.remote().cut.remote(shared))  # type: ignore[attr-defined]
    torch.manual_seed(1)
    images = torch.randn(2, *checkpoint.spec.input_size)
    dense = slim.extract(checkpoint, slim.Architecture.dense(checkpoint.spec))
    small = slim.extract(checkpoint, checkpoint.select(slim.Budget(0.5, 0.5, 0.5)))
    with torch.no_grad():
        ours = torch.cat([dense(images), small(images)])
    np.testing.assert_allclose(theirs.numpy(), ours.numpy(), atol=1e-5)
