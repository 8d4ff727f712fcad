"""What a slimmed Vision Transformer costs."""

from typing import Any

from slim.architecture import Architecture
from slim.macs import Cost
from slim.vit.spec import VitSpec


def count_outside(architecture: Architecture) -> Cost:
    """Patch embedding, prefix tokens, position embedding, pooling and classifier."""
    spec: Any = architecture.spec
    return _stem(spec) + _head(architecture)


def count_block(architecture: Architecture, block: int) -> Cost:
    """One block with N tokens, width D, S attention dimensions and h MLP units.

    `3*N*D*S + 2*N*N*S + N*S*D + 2*N*D*h` MACs (`3*N*D*h` for a gated MLP).
    """
    return _attention(architecture, block) + _mlp(architecture, block)


def paper_macs(architecture: Architecture, block: int, tokens: int) -> int:
    """One block as ViT-Slim counts, given the patches that leave the block before."""
    spec: Any = architecture.spec
    dense = spec.block(block)
    width, heads = dense.embed_dim, dense.num_heads
    dims, units = architecture.dims_in(block), len(architecture.units[block])
    rows = units * (2 if spec.gated else 1)
    attention = 4 * tokens * width * dims + 2 * tokens * tokens * dims
    attention += 6 * heads * tokens * tokens + 3 * tokens * dims + tokens * width
    mlp = tokens * (width * (rows + units) + rows + width)
    return attention + mlp + 2 * width * tokens


def _norm_params(spec: VitSpec, width: int) -> int:
    return width * (2 if spec.norm_layer == "layernorm" else 1)


def _branch_params(spec: VitSpec, width: int) -> int:
    """The norm before a branch and the LayerScale after it."""
    return _norm_params(spec, width) + width * spec.layer_scale


def _attention(architecture: Architecture, block: int) -> Cost:
    spec: Any = architecture.spec
    tokens = architecture.tokens_in(block)
    width, dims = spec.block(block).embed_dim, architecture.dims_in(block)
    if not dims:
        return Cost(0, width * spec.proj_bias)
    macs = 3 * tokens * width * dims + 2 * tokens * tokens * dims + tokens * dims * width
    params = 4 * width * dims + 3 * dims * spec.qkv_bias + width * spec.proj_bias
    used = len(set().union(*architecture.heads[block]))  # heads share the weights of a qk-norm
    qk_norm = 2 * _norm_params(spec, used) * spec.qk_norm
    return Cost(macs, params + qk_norm + _branch_params(spec, width))


def _mlp(architecture: Architecture, block: int) -> Cost:
    spec: Any = architecture.spec
    tokens = architecture.tokens_in(block)
    width, units = spec.block(block).embed_dim, len(architecture.units[block])
    if not units:
        return Cost(0, width * spec.proj_bias)
    rows = units * (2 if spec.gated else 1)
    macs = tokens * width * (rows + units)
    params = width * (rows + units) + (rows + width) * spec.proj_bias
    return Cost(macs, params + _branch_params(spec, width))


def _stem(spec: VitSpec) -> Cost:
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
    spec: Any = architecture.spec
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
    spec: Any = architecture.spec
    width, hidden = spec.embed_dim, spec.mlp_width
    tokens = len(architecture.tokens[-1])
    if spec.pool_include_prefix:
        tokens += spec.num_prefix_tokens
    macs = width * width + 2 * tokens * width * width + 2 * tokens * width + width * width
    macs += 2 * width * hidden
    params = width + 4 * (width * width + width)
    params += 2 * width * hidden + hidden + width + _norm_params(spec, width)
    return Cost(macs, params)
