"""An epoch has one order, in which processes take turns and images may come again."""

import numpy as np
import pytest
from timm.data.distributed_sampler import RepeatAugSampler

from slim.seeds import derive_seed
from slim.tasks.order import epoch_order, rank_positions


def test_an_epoch_holds_every_image_once():
    assert sorted(epoch_order(10, seed=1, epoch=2)) == list(range(10))
    assert list(epoch_order(10, 1, 2)) == list(epoch_order(10, 1, 2))
    orders = {tuple(epoch_order(10, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


@pytest.mark.parametrize(("size", "repeats"), [(12, 3), (10, 3), (7, 2), (5, 9)])
def test_repeats_come_as_timm_orders_them_over_all_processes(size, repeats):
    plain = epoch_order(size, 0, 0)
    sampler = RepeatAugSampler(
        range(size), 1, 0, shuffle=False, num_repeats=repeats, selected_round=0
    )
    assert list(epoch_order(size, 0, 0, repeats)) == [plain[index] for index in sampler]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_processes_share_the_global_batch(batch_size, world_size):
    parts = [rank_positions(batch_size, rank, world_size) for rank in range(world_size)]
    assert {len(part) for part in parts} == {batch_size}
    assert sorted(np.concatenate(parts)) == list(range(batch_size * world_size))


def test_a_process_alone_takes_the_batch_as_it_is():
    assert list(rank_positions(5, 0, 1)) == list(range(5))


@pytest.mark.parametrize("world_size", [2, 3])
def test_an_image_and_its_mirror_in_the_batch_are_in_one_process(world_size):
    last = 8 * world_size - 1
    for rank in range(world_size):
        part = rank_positions(8, rank, world_size)
        assert list(part[::-1]) == list(last - part)


def test_seeds_differ_by_purpose_and_place_and_are_the_same_everywhere():
    places = [(epoch, step) for epoch in (0, 1) for step in (0, 1)]
    seeds = {derive_seed(name, *place) for name in ("mixup", "distort") for place in places}
    assert len(seeds) == 8
    assert derive_seed("mixup", 0, 1) == 1877820697
    assert all(0 <= seed < 2**32 for seed in seeds)
