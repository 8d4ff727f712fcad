"""What a slimmed Swin Transformer costs."""

from typing import Any

from slim.architecture import Architecture
from slim.macs import Cost


def count_outside(architecture: Architecture) -> Cost:
    """Patch embedding, patch merging, final norm and classifier.

    Merging four patches of width D gives one of 2*D: `8*D*D` per patch that comes out.
    """
    spec: Any = architecture.spec
    patch = spec.in_chans * spec.patch_size[0] * spec.patch_size[1]
    rows, columns = spec.grid(0)
    width = spec.embed_dim
    macs, params = rows * columns * patch * width, patch * width + 3 * width
    for stage in range(1, len(spec.depths)):
        rows, columns = spec.grid(stage)
        macs += rows * columns * 8 * width * width
        params += 8 * width * width + 8 * width
        width = spec.width(stage)
    params += 2 * width + (width + 1) * spec.num_classes
    return Cost(macs + width * spec.num_classes, params)


def count_block(architecture: Architecture, block: int) -> Cost:
    """One block: N tokens, P with the padding of its windows, which have A each.

    For width D, S attention dimensions and h MLP units `3*P*D*S + 2*P*A*S + P*S*D + 2*N*D*h`.
    """
    return _attention(architecture, block) + _mlp(architecture, block)


def paper_macs(architecture: Architecture, block: int, entering: int) -> int:
    """One block as ViT-Slim counts: the products, biases, scaling, softmax and norms."""
    del entering  # no token is ever dropped
    spec: Any = architecture.spec
    dense, windows = spec.block(block), spec.windows(block)
    padded, width = windows.count * windows.area, dense.embed_dim
    dims, units = architecture.dims_in(block), len(architecture.units[block])
    attention = padded * (4 * width * dims + 2 * windows.area * dims)
    attention += padded * (6 * dense.num_heads * windows.area + 3 * dims + width)
    mlp = dense.num_patches * (2 * width * units + units + width)
    return attention + mlp + 2 * width * dense.num_patches


def _attention(architecture: Architecture, block: int) -> Cost:
    spec: Any = architecture.spec
    windows, width = spec.windows(block), spec.block(block).embed_dim
    dims = architecture.dims_in(block)
    if not dims:
        return Cost(0, width)
    padded = windows.count * windows.area
    heads = sum(bool(kept) for kept in architecture.heads[block])
    params = 4 * width * dims + 3 * dims * spec.qkv_bias + width
    params += windows.table_rows * heads + 2 * width
    return Cost(padded * dims * (4 * width + 2 * windows.area), params)


def _mlp(architecture: Architecture, block: int) -> Cost:
    dense, units = architecture.spec.block(block), len(architecture.units[block])
    width = dense.embed_dim
    if not units:
        return Cost(0, width)
    params = 2 * width * units + units + width + 2 * width
    return Cost(dense.num_patches * 2 * width * units, params)
