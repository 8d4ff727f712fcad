"""What an architecture costs, known before anything trains."""

from dataclasses import dataclass

from slim.architecture import Architecture
from slim.spec import ModelSpec


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates (MACs) for one image, and parameters; whole numbers."""

    macs: int
    params: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.macs + other.macs, self.params + other.params)


def count(architecture: Architecture) -> Cost:
    """The exact cost of the subnetwork that an architecture describes.

    MACs are those of matrix products and convolutions (ViT-Slim, arXiv 2201.00814, section 3.4,
    without its element-wise terms): for a block with N tokens, width D, S attention dimensions
    and h MLP units `3*N*D*S + 2*N*N*S + N*S*D + 2*N*D*h` (`3*N*D*h` with a gated MLP).

    Returns:
        The cost for one image of the model's input size; padding a layout may do at run time
        is not counted.
    """
    total = _stem(architecture.spec) + _head(architecture)
    for block in range(architecture.spec.depth):
        total += count_block(architecture, block)
    return total


def count_block(architecture: Architecture, block: int) -> Cost:
    """The cost of one block, by the formula of `count`."""
    return _attention(architecture, block) + _mlp(architecture, block)


def paper_macs(architecture: Architecture) -> int:
    """The "FLOPs" of ViT-Slim's tables: its own count, to compare with what the paper prints.

    As the paper's code counts (arXiv 2201.00814, section 3.4 and its `get_flops`): prefix tokens
    are left out, each block takes the token count of the block before it, and a block with N
    tokens, width D, H dense heads, S attention dimensions and h MLP units has the products of
    `count`, biases `3*N*S + N*D + N*(D + h)`, the scaling of the scores `H*N*N`, a softmax of
    `5*H*N*N` and a LayerNorm of `2*D*N`.
    """
    spec = architecture.spec
    total, entering = _stem(spec).macs + _head(architecture).macs, spec.num_patches
    for block in range(spec.depth):
        total += _paper_block(architecture, block, entering)
        entering = len(architecture.tokens[block])
    return total


def _paper_block(architecture: Architecture, block: int, tokens: int) -> int:
    spec, dense = architecture.spec, architecture.spec.block(block)
    width, heads = dense.embed_dim, dense.num_heads
    dims, units = architecture.dims_in(block), len(architecture.units[block])
    rows = units * (2 if spec.gated else 1)
    attention = 4 * tokens * width * dims + 2 * tokens * tokens * dims
    attention += 6 * heads * tokens * tokens + 3 * tokens * dims + tokens * width
    mlp = tokens * (width * (rows + units) + rows + width)
    return attention + mlp + 2 * width * tokens


def _norm_params(spec: ModelSpec, width: int) -> int:
    return width * (2 if spec.norm_layer == "layernorm" else 1)


def _branch_params(spec: ModelSpec, width: int) -> int:
    """The norm before a branch and the LayerScale after it."""
    return _norm_params(spec, width) + width * spec.layer_scale


def _attention(architecture: Architecture, block: int) -> Cost:
    spec, tokens = architecture.spec, architecture.tokens_in(block)
    width, dims = spec.block(block).embed_dim, architecture.dims_in(block)
    if not dims:
        return Cost(0, width * spec.proj_bias)
    macs = 3 * tokens * width * dims + 2 * tokens * tokens * dims + tokens * dims * width
    params = 4 * width * dims + 3 * dims * spec.qkv_bias + width * spec.proj_bias
    used = len(set().union(*architecture.heads[block]))  # heads share the weights of a qk-norm
    qk_norm = 2 * _norm_params(spec, used) * spec.qk_norm
    return Cost(macs, params + qk_norm + _branch_params(spec, width))


def _mlp(architecture: Architecture, block: int) -> Cost:
    spec, tokens = architecture.spec, architecture.tokens_in(block)
    width, units = spec.block(block).embed_dim, len(architecture.units[block])
    if not units:
        return Cost(0, width * spec.proj_bias)
    rows = units * (2 if spec.gated else 1)
    macs = tokens * width * (rows + units)
    params = width * (rows + units) + (rows + width) * spec.proj_bias
    return Cost(macs, params + _branch_params(spec, width))


def _stem(spec: ModelSpec) -> Cost:
    """Patch embedding, prefix tokens and position embedding."""
    patch = spec.in_chans * spec.patch_size[0] * spec.patch_size[1]
    positions = spec.num_patches + (0 if spec.no_embed_class else spec.num_prefix_tokens)
    if spec.distilled:  # timm's distilled model always embeds its prefix tokens
        positions = spec.num_patches + spec.num_prefix_tokens
    params = patch * spec.embed_dim + spec.embed_dim * (not spec.pre_norm)
    params += spec.embed_dim * (spec.num_prefix_tokens + positions * spec.pos_embed)
    params += _norm_params(spec, spec.embed_dim) * spec.pre_norm
    return Cost(spec.num_patches * patch * spec.embed_dim, params)


def _head(architecture: Architecture) -> Cost:
    """Final norm, pooling and classifier."""
    spec = architecture.spec
    width = spec.embed_dim
    classifiers = 2 if spec.distilled else 1
    macs = classifiers * width * spec.num_classes
    params = classifiers * (width + 1) * spec.num_classes
    params += _norm_params(spec, width) * spec.final_norm
    if spec.global_pool != "map":
        return Cost(macs, params)
    return Cost(macs, params) + _latent_pool(architecture)


def _latent_pool(architecture: Architecture) -> Cost:
    """timm's AttentionPoolLatent with one latent query (SigLIP)."""
    spec = architecture.spec
    width, hidden = spec.embed_dim, spec.mlp_width
    tokens = len(architecture.tokens[-1])
    if spec.pool_include_prefix:
        tokens += spec.num_prefix_tokens
    macs = width * width + 2 * tokens * width * width + 2 * tokens * width + width * width
    macs += 2 * width * hidden
    params = width + 4 * (width * width + width)
    params += 2 * width * hidden + hidden + width + _norm_params(spec, width)
    return Cost(macs, params)
