"""An architecture is checked indices: what cannot be cut cannot be made."""

import copy
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim import Architecture, FileFormatError
from tests.slim.architectures import architectures, uneven, with_fewest_tokens, without_head
from tests.slim.families import FAMILIES, SWINS, VITS, spec_of

VIT = spec_of("vit")
DENSE = Architecture.dense(VIT)
POOLS_PATCHES = [family for family in VITS if spec_of(family).needs_patches]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=5)
@given(data=st.data())
def test_it_survives_a_trip_through_json(family, data):
    architecture = data.draw(architectures(spec_of(family)))
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture


def test_it_counts_what_it_keeps():
    architecture = uneven(spec_of("deit_distilled"))
    assert architecture.kept() == {"tokens": 5 + 4 + 3, "mhsa": 3 * 6, "mlp": 3 * 6}
    assert [architecture.tokens_in(block) for block in range(3)] == [7, 6, 5]
    assert architecture.dims_in(0) == 6


def test_only_the_dense_one_is_dense():
    assert DENSE.is_dense
    assert not without_head(VIT).is_dense


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokens": DENSE.tokens[:2]}, "does not have 3 blocks"),
        ({"heads": DENSE.heads[:2]}, "does not have 3 blocks"),
        ({"units": ((0,),) * 4}, "does not have 3 blocks"),
        ({"tokens": ((0, 1), (0, 2), (0,))}, "block 1 keeps a token that was dropped before"),
        ({"tokens": ((1, 0),) * 3}, "tokens of block 0 are not ascending"),
        ({"tokens": ((0, 0),) * 3}, "tokens of block 0 are not ascending"),
        ({"tokens": ((0, 6),) * 3}, "tokens of block 0 are not ascending indices below 6"),
        ({"units": ((-1,),) * 3}, "units of block 0 are not ascending indices below 12"),
        ({"units": ((0,), (0,), (12,))}, "units of block 2 are not ascending"),
        ({"units": ((True,),) * 3}, "units of block 0 are not integers"),
        ({"units": ((0.0,),) * 3}, "units of block 0 are not integers"),
        ({"heads": (((0,), (1,)),) * 3}, "block 0 does not name 3 heads"),
        ({"heads": (((0,), (1,), (4,)),) * 3}, "head 2 of block 0 are not ascending"),
    ],
)
def test_indices_that_cannot_be_cut_are_refused(changes, reason):
    with pytest.raises(FileFormatError, match=reason):
        replace(DENSE, **changes)


@pytest.mark.parametrize("family", POOLS_PATCHES)
def test_pooling_over_patches_needs_a_patch(family):
    smallest = with_fewest_tokens(spec_of(family))
    with pytest.raises(FileFormatError, match="block 2 keeps no patch token"):
        replace(smallest, tokens=(*smallest.tokens[:2], ()))


@pytest.mark.parametrize("family", SWINS)
def test_windows_need_every_token(family):
    dense = Architecture.dense(spec_of(family))
    with pytest.raises(FileFormatError, match="block 2 drops tokens"):
        replace(dense, tokens=(*dense.tokens[:2], dense.tokens[2][1:]))


def spoilt(*path: str | int, value: object) -> object:
    """The JSON of an architecture with one place changed."""
    values = copy.deepcopy(DENSE.to_json())
    place = values
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return values


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        DENSE.to_json() | {"more": 1},
        {k: v for k, v in DENSE.to_json().items() if k != "units"},
        spoilt("tokens", value="all"),
        spoilt("tokens", value={"0": []}),
        spoilt("tokens", 0, value=5),
        spoilt("tokens", 0, 0, value="0"),
        spoilt("heads", 0, value=None),
        spoilt("heads", 0, 0, value=4),
        spoilt("heads", 0, 0, 0, value=[0]),
        spoilt("heads", 0, 0, 0, value=10**30),
        spoilt("units", 0, 0, value=0.5),
        spoilt("units", 0, 0, value=float("nan")),
        spoilt("spec", value=None),
        spoilt("spec", "depth", value=2),
    ],
)
def test_json_that_is_not_an_architecture_is_refused_in_one_line(values):
    with pytest.raises(FileFormatError) as refused:
        Architecture.from_json(values)
    assert "\n" not in str(refused.value)
