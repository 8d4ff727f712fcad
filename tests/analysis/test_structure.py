"""What is kept where, counted by hand on small architectures."""

import numpy as np
import pytest
from timm.models.swin_transformer import SwinTransformer

import slim
from analysis.structure import (
    draw_heads,
    draw_middle_against_ends,
    draw_structure,
    draw_token_maps,
    head_data,
    middle_against_ends,
    middle_sentence,
    structure_data,
    structure_sentence,
    token_map,
    token_maps,
)
from slim.spec import read_spec


def cut(
    checkpoint: slim.MaskCheckpoint, dims: list[int], units: list[int], tokens: list[int]
) -> slim.Architecture:
    """An architecture that keeps so many dims of head 0, units and tokens in each block."""
    return slim.Architecture(
        spec=checkpoint.spec,
        tokens=tuple(tuple(range(count)) for count in tokens),
        heads=tuple((tuple(range(count)), ()) for count in dims),
        units=tuple(tuple(range(count)) for count in units),
    )


@pytest.fixture
def hill(checkpoint: slim.MaskCheckpoint) -> slim.Architecture:
    """Most in the middle: heads keep 2 2 8 8 2 0 of 16, units 16 16 64 64 16 8 of 64."""
    return cut(checkpoint, [2, 2, 8, 8, 2, 0], [16, 16, 64, 64, 16, 8], [16, 16, 12, 8, 4, 1])


def test_shares_stand_by_block_and_from_cheap_to_dear(
    checkpoint: slim.MaskCheckpoint, hill: slim.Architecture
) -> None:
    dense = slim.Architecture.dense(checkpoint.spec)
    data = structure_data({0: dense, 5: hill})
    assert data.trials == (5, 0)
    assert data.gmacs == tuple(slim.count(a).macs / 1e9 for a in (hill, dense))
    assert data.mhsa[:, 0].tolist() == [2 / 16, 2 / 16, 0.5, 0.5, 2 / 16, 0]
    assert data.mlp[:, 0].tolist() == [0.25, 0.25, 1, 1, 0.25, 0.125]
    assert data.tokens[:, 0].tolist() == [1, 1, 0.75, 0.5, 0.25, 1 / 16]
    assert (data.mlp[:, 1] == 1).all()


def test_heads_are_the_mean_over_the_networks(
    checkpoint: slim.MaskCheckpoint, hill: slim.Architecture
) -> None:
    data = head_data({0: slim.Architecture.dense(checkpoint.spec), 5: hill})
    assert data.kept[0].tolist() == [5, 4]
    assert data.kept[5].tolist() == [4, 4]
    assert (data.head_dims.tolist(), data.networks) == ([8] * 6, 2)


@pytest.fixture
def swin() -> slim.Architecture:
    """Stages of 2 and 4 heads; the one block of the second keeps half of its dimensions."""
    model = SwinTransformer(
        img_size=8, patch_size=2, embed_dim=16, depths=(2, 1), num_heads=(2, 4), window_size=2
    )
    dense = slim.Architecture.dense(read_spec(model))
    half = (tuple(range(4)),) * 4
    return slim.Architecture(dense.spec, dense.tokens, (*dense.heads[:2], half), dense.units)


def test_blocks_of_different_width_stand_side_by_side(swin: slim.Architecture) -> None:
    data = structure_data({1: swin})
    assert data.mhsa[:, 0].tolist() == [1, 1, 0.5]
    assert data.tokens[:, 0].tolist() == [1, 1, 1]
    heads = head_data({1: swin})
    assert heads.kept[2].tolist() == [4, 4, 4, 4]
    assert heads.kept[0, :2].tolist() == [8, 8]
    assert np.isnan(heads.kept[0, 2:]).all()
    assert heads.head_dims.tolist() == [8, 8, 8]
    assert np.asarray(draw_heads(heads).data[0].z).shape == (3, 4)


def test_a_network_that_cannot_drop_tokens_has_no_token_map(swin: slim.Architecture) -> None:
    assert token_maps({1: swin}) == ()
    assert "100% of its token slots" in structure_sentence({1: swin}, 1).replace(" %", "%")


def test_the_token_map_counts_the_blocks_of_each_position(hill: slim.Architecture) -> None:
    kept = token_map(5, hill).kept
    assert kept.shape == (4, 4)
    assert kept[0].tolist() == [6, 5, 5, 5]
    assert kept[3].tolist() == [2, 2, 2, 2]


def test_maps_are_spread_from_cheap_to_dear_and_leave_out_what_drops_nothing(
    checkpoint: slim.MaskCheckpoint,
) -> None:
    budgets = {trial: slim.Budget(tokens=trial / 10) for trial in range(3, 11)}
    networks = {trial: checkpoint.select(budget) for trial, budget in budgets.items()}
    assert [one.trial for one in token_maps(networks)] == [3, 5, 7, 9]
    assert token_maps({10: networks[10]}) == ()


def test_the_papers_observation_holds_for_a_hill(hill: slim.Architecture) -> None:
    mhsa, mlp = middle_against_ends({5: hill})
    assert (mhsa.first, mhsa.middle, mhsa.last) == (2 / 16, 0.5, 1 / 16)
    assert (mlp.first, mlp.middle, mlp.last) == (0.25, 1, 0.1875)
    assert (mlp.agreeing, mlp.networks, mlp.least) == (1, 1, (5,))
    sentence = middle_sentence((mhsa, mlp))
    assert "MLP units: it holds." in sentence
    assert "Block 5 is cut most, which is the deepest" in sentence
    tied = middle_sentence((mhsa._replace(least=(1, 5)), mlp._replace(least=(1, 4))))
    assert "Blocks 1 and 5 are cut most, the deepest among them." in tied
    assert "Blocks 1 and 4 are cut most, not the deepest." in tied


def test_the_papers_observation_fails_for_a_valley(checkpoint: slim.MaskCheckpoint) -> None:
    valley = cut(checkpoint, [8, 8, 2, 2, 8, 8], [64, 64, 8, 16, 64, 64], [16] * 6)
    thirds = middle_against_ends({1: valley})
    assert [part.agreeing for part in thirds] == [0, 0]
    assert "MLP units: it does not hold." in middle_sentence(thirds)
    assert "Block 2 is cut most, which is not the deepest" in middle_sentence(thirds)


def test_networks_that_cut_nothing_are_not_asked(checkpoint: slim.MaskCheckpoint) -> None:
    assert middle_against_ends({0: slim.Architecture.dense(checkpoint.spec)}) == ()
    assert middle_against_ends({}) == ()
    assert "cannot be tested" in middle_sentence(())


def test_the_sentence_says_what_is_missing(hill: slim.Architecture) -> None:
    assert "No trial is complete" in structure_sentence({}, 0)
    assert "no `architecture.json`" in structure_sentence({}, 2)
    assert "1 of them without" in structure_sentence({5: hill}, 2)


def test_the_pictures_hold_the_data(hill: slim.Architecture) -> None:
    networks = {5: hill}
    data = structure_data(networks)
    shares = [np.asarray(trace.z) for trace in draw_structure(data).data]
    assert np.array_equal(shares[1], 100 * data.mhsa)
    assert np.asarray(draw_heads(head_data(networks)).data[0].z).shape == (6, 2)
    assert np.array_equal(draw_token_maps(token_maps(networks)).data[0].z, token_map(5, hill).kept)
    lines = draw_middle_against_ends(middle_against_ends(networks)).data
    assert [line.name for line in lines] == ["MHSA dimensions", "MLP units"]
