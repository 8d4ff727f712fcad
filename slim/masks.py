"""Soft masks on a dense Vision Transformer, and the hard masks they turn into."""

import copy
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from slim.architecture import Architecture
from slim.errors import UnsupportedModelError
from slim.ranking import Scores
from slim.spec import ModelSpec, read_spec
from slim.subnetwork import architecture_of

# The smallest soft token mask: its logarithm must stay finite for the gradient.
SMALLEST_TOKEN_MASK = 1e-4
# The log-mask of a dropped token: its exponential is 0 and products with it stay finite.
DROPPED = -1e30


class MaskedAttention(nn.Module):
    """timm's `Attention` with a mask on every head dimension, shared by q, k and v.

    The mask is folded into the qkv weights in each step, so it saves no activations. The token
    mask leaves the softmax as an additive log-mask: the weights are widened by spare dimensions
    of every head, of which the first holds 1 in the queries and the log-mask in the keys. They
    are as many in q, k and v, because the fused kernels take equal widths alone, and bring the
    width to a multiple of 8, which those of CUDA want.
    """

    kept: Tensor

    def __init__(self, attn: Any) -> None:
        super().__init__()
        self.num_heads: int = attn.num_heads
        self.head_dim: int = attn.head_dim
        self.spare = 8 - attn.head_dim % 8
        self.scale: float = attn.scale
        self.qkv = attn.qkv
        self.q_norm, self.k_norm = attn.q_norm, attn.k_norm
        self.attn_drop: nn.Dropout = attn.attn_drop
        self.proj = attn.proj
        self.proj_drop = attn.proj_drop
        like = self.qkv.weight
        self.mask = nn.Parameter(like.new_ones(self.num_heads, self.head_dim))
        self.register_buffer("kept", torch.ones_like(self.mask), persistent=False)

    def forward(self, x: Tensor, log_mask: Tensor) -> Tensor:
        """Attend: (B, N, D) and the tokens' log-mask (N,) to (B, N, D)."""
        qkv = F.linear(x, self._qkv_weight(), self._qkv_bias())  # (B, N, 3 * H * (d + spare))
        qkv = qkv.unflatten(-1, (3, self.num_heads, self.head_dim + self.spare))
        qkv[:, :, 1, :, self.head_dim] += (log_mask / self.scale).to(qkv.dtype)[:, None]
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, N, d + spare) each
        q, k = self._normalise(self.q_norm, q), self._normalise(self.k_norm, k)
        drop = self.attn_drop.p if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=drop, scale=self.scale)
        out = out.transpose(1, 2).flatten(2)  # (B, N, H * (d + spare)), not copied
        weight = self.proj.weight.unflatten(1, (self.num_heads, self.head_dim))
        weight = F.pad(weight, (0, self.spare)).flatten(1)
        projected: Tensor = self.proj_drop(F.linear(out, weight, self.proj.bias))
        return projected

    def _qkv_weight(self) -> Tensor:
        """The masked weights with zeros for the spare dimensions: (3 * H * (d + spare), D)."""
        fold = self.mask * self.kept
        weight = self.qkv.weight.unflatten(0, (3, *fold.shape)) * fold[..., None]
        return F.pad(weight, (0, 0, 0, self.spare)).flatten(0, 2)

    def _qkv_bias(self) -> Tensor:
        """The masked bias, and 1 in the first spare dimension of the queries."""
        fold = self.mask * self.kept
        bias = fold.new_zeros(3, *fold.shape)
        if self.qkv.bias is not None:
            bias = self.qkv.bias.view(3, *fold.shape) * fold
        one = torch.zeros_like(bias[..., :1])
        one[0] = 1.0
        return F.pad(torch.cat([bias, one], dim=-1), (0, self.spare - 1)).flatten()

    def _normalise(self, norm: Any, x: Tensor) -> Tensor:
        """The qk-norm of all but the spare dimensions: (B, H, N, d + spare) to the same."""
        if isinstance(norm, nn.Identity):
            return x
        normed = _masked_norm(norm, x[..., : self.head_dim], self.kept)
        return torch.cat([normed, x[..., self.head_dim :]], dim=-1)


class MaskedMlp(nn.Module):
    """An MLP of timm with a mask on every hidden unit, after the activation.

    The mask is folded into the `fc2` weights in each step.
    """

    kept: Tensor

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.dense = mlp
        weight = mlp.fc2.weight
        self.mask = nn.Parameter(weight.new_ones(weight.shape[1]))
        self.register_buffer("kept", torch.ones_like(self.mask), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        folded = {"fc2.weight": self.dense.fc2.weight * (self.mask * self.kept)}
        out: Tensor = torch.func.functional_call(self.dense, folded, (x,))
        return out


class MaskedBlock(nn.Module):
    """timm's pre-norm `Block` with masks on its tokens, attention dimensions and MLP units."""

    kept: Tensor

    def __init__(self, block: Any, num_patches: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.norm1, self.ls1, self.drop_path1 = block.norm1, block.ls1, block.drop_path1
        self.norm2, self.ls2, self.drop_path2 = block.norm2, block.ls2, block.drop_path2
        self.attn = MaskedAttention(block.attn)
        self.mlp = MaskedMlp(block.mlp)
        like = block.attn.qkv.weight
        self.token_mask = nn.Parameter(like.new_ones(num_patches))
        self.register_buffer("kept", torch.ones_like(self.token_mask), persistent=False)

    def log_token_mask(self) -> Tensor:
        """The additive mask of all tokens before the softmax: (N,), 0 for prefix tokens."""
        log_mask = self.token_mask.clamp_min(SMALLEST_TOKEN_MASK).log()
        log_mask = torch.where(self.kept > 0, log_mask, DROPPED)
        return F.pad(log_mask, (self.num_prefix_tokens, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D); masked tokens stay in it but nobody attends to them."""
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), self.log_token_mask())))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x


class MaskedVisionTransformer(nn.Module):
    """A dense timm Vision Transformer whose blocks carry masks.

    Args:
        model: The dense model; its modules are taken over.
        spec: Its spec.
    """

    vit: Any

    def __init__(self, model: Any, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.vit = model
        self.vit.blocks = nn.Sequential(
            *(MaskedBlock(b, spec.num_patches, spec.num_prefix_tokens) for b in model.blocks)
        )

    @property
    def blocks(self) -> list[MaskedBlock]:
        """The masked blocks, in order."""
        return [block for block in self.vit.blocks.children() if isinstance(block, MaskedBlock)]

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (B, C, H, W): logits (B, classes)."""
        x = self.vit.forward_features(images)
        if self.spec.global_pool == "token":
            logits: Tensor = self.vit.forward_head(x)
            return logits
        x = self.vit.fc_norm(self._pool(x))
        logits = self.vit.head(self.vit.head_drop(x))
        return logits

    def no_weight_decay(self) -> set[str]:
        """Parameters that get no weight decay, as timm's models tell."""
        return {f"vit.{name}" for name in self.vit.no_weight_decay()}

    def live_masks(self) -> Scores:
        """The mask parameters themselves, by dimension and block."""
        blocks = self.blocks
        return Scores(
            tokens=tuple(block.token_mask for block in blocks),
            mhsa=tuple(block.attn.mask for block in blocks),
            mlp=tuple(block.mlp.mask for block in blocks),
        )

    def masks(self) -> Scores:
        """The masks as they stand, detached copies."""
        return self.live_masks().map(lambda mask: mask.detach().clone())

    @torch.no_grad()
    def set_masks(self, masks: Scores) -> None:
        """Give every mask a value; the shapes are those of `masks`."""
        for i, block in enumerate(self.blocks):
            block.token_mask.copy_(masks.tokens[i])
            block.attn.mask.copy_(masks.mhsa[i])
            block.mlp.mask.copy_(masks.mlp[i])

    def mask_parameters(self) -> dict[str, nn.Parameter]:
        """The mask parameters by name; every other parameter is a weight of the dense model."""
        return {name: p for name, p in self.named_parameters() if name.endswith("mask")}

    @torch.no_grad()
    def clamp_masks(self) -> None:
        """Bring every mask back to [0, 1], token masks to where their logarithm is finite."""
        for name, mask in self.mask_parameters().items():
            low = SMALLEST_TOKEN_MASK if name.endswith("token_mask") else 0.0
            mask.clamp_(low, 1.0)

    @torch.no_grad()
    def harden(self, architecture: Architecture) -> "MaskedVisionTransformer":
        """Mask hard what an architecture does not keep: the reference that extraction must equal.

        Kept tokens get mask 1; kept dimensions and units keep their mask's value.

        Returns:
            This model, changed in place.
        """
        for i, block in enumerate(self.blocks):
            block.token_mask.fill_(1.0)
            _mark(block.kept, architecture.tokens[i])
            _mark(block.mlp.kept, architecture.units[i])
            for head, dims in enumerate(architecture.heads[i]):
                _mark(block.attn.kept[head], dims)
        return self

    def dense_state(self) -> dict[str, Tensor]:
        """The dense model's weights under timm's names, masks left out; not copied."""
        state = {}
        for name, tensor in self.vit.state_dict().items():
            if not name.endswith("mask"):
                state[name.replace(".mlp.dense.", ".mlp.")] = tensor
        return state

    def _pool(self, x: Tensor) -> Tensor:
        """timm's pooling over the tokens that are left: (B, N, D) to (B, D)."""
        spec, block = self.spec, self.blocks[-1]
        log_mask = block.log_token_mask()
        if not spec.pool_include_prefix:
            x, log_mask = x[:, spec.num_prefix_tokens :], log_mask[spec.num_prefix_tokens :]
        if spec.global_pool == "map":
            pooled: Tensor = self.vit.attn_pool(x, attn_mask=log_mask.to(x.dtype)[None])
            return pooled
        mask = log_mask.exp()[:, None]
        mean = (x * mask).sum(dim=1) / mask.sum()
        if spec.global_pool == "avg":
            return mean
        highest = x.masked_fill(mask == 0, -torch.inf).amax(dim=1)
        return highest if spec.global_pool == "max" else 0.5 * (highest + mean)


def attach_masks(model: nn.Module) -> MaskedVisionTransformer:
    """Put soft masks, all 1, on a copy of a dense timm Vision Transformer.

    Args:
        model: A `timm` VisionTransformer, or a dense model that `slim.load` gave.

    Returns:
        The masked model; until its masks change it computes the same function.

    Raises:
        UnsupportedModelError: If the model has a feature that is not covered, or is slim already.
    """
    dense = as_timm(model)
    spec = read_spec(dense)
    training = model.training
    return MaskedVisionTransformer(copy.deepcopy(dense), spec).train(training)


def as_timm(model: Any) -> nn.Module:
    """A plain timm model of one image size that computes the model's function.

    That is the model itself, but for a dense subnetwork that `slim.load` gave and for a model
    with `dynamic_img_size`, which is fixed to the image size it was made for.

    Raises:
        UnsupportedModelError: If it is a subnetwork from which something was cut, or has a
            feature that is not covered.
    """
    given: nn.Module = model
    if getattr(model, "architecture", None) is None:
        return _rebuilt(read_spec(model), model) if _is_dynamic(model) else given
    architecture = architecture_of(model)
    if not architecture.is_dense:
        raise UnsupportedModelError(
            "this model is a slimmed subnetwork; masks go on the dense model it was cut from"
        )
    return _rebuilt(architecture.spec, model)


def _is_dynamic(model: Any) -> bool:
    """Whether the model resamples its position embedding to any image size."""
    return isinstance(model, VisionTransformer) and bool(model.dynamic_img_size)


def _rebuilt(spec: ModelSpec, model: nn.Module) -> nn.Module:
    """The spec's model around the given one's tensors."""
    with torch.device("meta"):
        dense = spec.build()
    dense.load_state_dict(model.state_dict(), assign=True, strict=True)
    rebuilt: nn.Module = dense.train(model.training)
    return rebuilt


def _mark(kept: Tensor, indices: tuple[int, ...]) -> None:
    kept.zero_()
    kept[list(indices)] = 1.0


def _masked_norm(norm: Any, x: Tensor, kept: Tensor) -> Tensor:
    """A qk-norm with statistics over each head's kept dimensions: (B, H, N, d) to the same."""
    if isinstance(norm, nn.Identity) or bool(kept.all()):
        normed: Tensor = norm(x)
        return normed
    keep = kept[:, None, :]  # (H, 1, d)
    count = keep.sum(dim=-1, keepdim=True).clamp_min(1.0)
    if isinstance(norm, nn.LayerNorm):
        x = x - (x * keep).sum(dim=-1, keepdim=True) / count
    variance = (x * x * keep).sum(dim=-1, keepdim=True) / count
    x = x * torch.rsqrt(variance + norm.eps) * norm.weight
    bias = getattr(norm, "bias", None)
    return (x if bias is None else x + bias) * keep
