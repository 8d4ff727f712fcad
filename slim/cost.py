"""What an architecture costs, known before anything trains."""

from slim.architecture import Architecture
from slim.families import family_of
from slim.macs import Cost

__all__ = ["Cost", "count", "count_block", "paper_macs"]


def count(architecture: Architecture) -> Cost:
    """The exact cost of the subnetwork that an architecture describes.

    MACs are those of matrix products and convolutions (ViT-Slim, arXiv 2201.00814, section 3.4,
    without its element-wise terms): for a block with N tokens that each attend to A, width D,
    S attention dimensions and h MLP units `3*N*D*S + 2*N*A*S + N*S*D + 2*N*D*h` (`3*N*D*h` with a
    gated MLP). A is N, or in Swin the area of a window, whose zero padding attention works on too.

    Returns:
        The cost for one image of the model's input size; padding a layout may do at run time
        is not counted.
    """
    total = family_of(architecture.spec).count_outside(architecture)
    for block in range(architecture.spec.depth):
        total += count_block(architecture, block)
    return total


def count_block(architecture: Architecture, block: int) -> Cost:
    """The cost of one block, by the formula of `count`."""
    return family_of(architecture.spec).count_block(architecture, block)


def paper_macs(architecture: Architecture) -> int:
    """The "FLOPs" of ViT-Slim's tables: its own count, to compare with what the paper prints.

    As the paper's code counts (arXiv 2201.00814, section 3.4 and its `get_flops`): prefix tokens
    are left out, each block takes the token count of the block before it, and a block with N
    tokens that each attend to A, width D, H dense heads, S attention dimensions and h MLP units
    has the products of `count`, biases `3*N*S + N*D + N*(D + h)`, the scaling of the scores
    `H*N*A`, a softmax of `5*H*N*A` and a LayerNorm of `2*D*N`.
    """
    family, spec = family_of(architecture.spec), architecture.spec
    total, entering = family.count_outside(architecture).macs, spec.block(0).num_patches
    for block in range(spec.depth):
        total += family.paper_macs(architecture, block, entering)
        entering = len(architecture.tokens[block])
    return total
