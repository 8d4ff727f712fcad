"""Soft masks on a dense Vision Transformer, and the hard masks they turn into."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slim.architecture import Architecture
from slim.folded_linear import folded_linear
from slim.masked_model import SMALLEST_TOKEN_MASK, MaskedModel, mark_kept, mask_hidden_units
from slim.ranking import Scores
from slim.vit.spec import VitSpec

# The log-mask of a dropped token: its exponential is 0 and products with it stay finite.
DROPPED = -1e30


class MaskedAttention(nn.Module):
    """timm's `Attention` with a mask on every head dimension, shared by q, k and v.

    The mask is folded into the qkv weights in each step, so it keeps no activations. The token
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
        self.hard = False  # whether some dimensions are not kept
        self.mask = nn.Parameter(like.new_ones(self.num_heads, self.head_dim))
        self.register_buffer("kept", torch.ones_like(self.mask), persistent=False)

    def forward(self, x: Tensor, log_mask: Tensor) -> Tensor:
        """Attend: (B, N, D) and the tokens' log-mask (N,) to (B, N, D)."""
        # (B, N, 3 * H * (d + spare))
        qkv = folded_linear(x, self._fold_qkv, self.qkv.weight, self.qkv.bias, self.mask)
        qkv = qkv.unflatten(-1, (3, self.num_heads, self.head_dim + self.spare))
        # what is dropped stays finite in float16 too: infinity times 0 is no gradient
        lowest = max(torch.finfo(qkv.dtype).min / 2, DROPPED / self.scale)
        bias = (log_mask / self.scale).clamp_min(lowest).to(qkv.dtype)
        qkv[:, :, 1, :, self.head_dim] += bias[:, None]
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, N, d + spare) each
        q, k = self._normalise(self.q_norm, q), self._normalise(self.k_norm, k)
        drop = self.attn_drop.p if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=drop, scale=self.scale)
        out = out.transpose(1, 2).flatten(2)  # (B, N, H * (d + spare)), not copied
        out = folded_linear(out, self._widen_proj, self.proj.weight, self.proj.bias)
        projected: Tensor = self.proj_drop(out)
        return projected

    def _fold_qkv(
        self, weight: Tensor, bias: Tensor | None, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The masked weight and bias, widened: (3 * H * (d + spare), D) and as many.

        The first spare dimension of the queries has the bias 1, all others are 0.
        """
        fold = mask * self.kept
        weight = weight.unflatten(0, (3, *fold.shape)) * fold[..., None]
        masked = fold.new_zeros(3, *fold.shape)
        if bias is not None:
            masked = bias.view(3, *fold.shape) * fold
        one = torch.zeros_like(masked[..., :1])
        one[0] = 1.0
        masked = F.pad(torch.cat([masked, one], dim=-1), (0, self.spare - 1))
        return F.pad(weight, (0, 0, 0, self.spare)).flatten(0, 2), masked.flatten()

    def _widen_proj(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The weight with zeros for the spare dimensions, (D, H * (d + spare)), and the bias."""
        heads = weight.unflatten(1, (self.num_heads, self.head_dim))
        return F.pad(heads, (0, self.spare)).flatten(1), bias

    def _normalise(self, norm: Any, x: Tensor) -> Tensor:
        """The qk-norm of all but the spare dimensions: (B, H, N, d + spare) to the same."""
        if isinstance(norm, nn.Identity):
            return x
        heads = x[..., : self.head_dim]
        normed = _masked_norm(norm, heads, self.kept) if self.hard else norm(heads)
        return torch.cat([normed, x[..., self.head_dim :]], dim=-1)


class MaskedBlock(nn.Module):
    """timm's pre-norm `Block` with masks on its tokens, attention dimensions and MLP units."""

    kept: Tensor

    def __init__(self, block: Any, num_patches: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.norm1, self.ls1, self.drop_path1 = block.norm1, block.ls1, block.drop_path1
        self.norm2, self.ls2, self.drop_path2 = block.norm2, block.ls2, block.drop_path2
        self.attn = MaskedAttention(block.attn)
        self.mlp = mask_hidden_units(block.mlp)
        like = block.attn.qkv.weight
        self.token_mask = nn.Parameter(like.new_ones(num_patches))
        self.register_buffer("kept", torch.ones_like(self.token_mask), persistent=False)

    def log_token_mask(self) -> Tensor:
        """The additive mask of all tokens before the softmax: (N,), 0 for prefix tokens."""
        log_mask = self.token_mask.clamp_min(SMALLEST_TOKEN_MASK).log()
        log_mask = torch.where(self.kept > 0, log_mask, DROPPED)
        return F.pad(log_mask, (self.num_prefix_tokens, 0))

    def scaled(self, x: Tensor) -> Tensor:
        """What enters a branch, behind its norm: (B, N, D)."""
        return x

    def attention_branch(self, x: Tensor) -> Tensor:
        """What attention adds to the stream: (B, N, D)."""
        out: Tensor = self.ls1(self.attn(self.scaled(self.norm1(x)), self.log_token_mask()))
        return out

    def mlp_branch(self, x: Tensor) -> Tensor:
        """What the MLP adds to the stream: (B, N, D)."""
        out: Tensor = self.ls2(self.mlp(self.scaled(self.norm2(x))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D); masked tokens stay in it but nobody attends to them."""
        x = x + self.drop_path1(self.attention_branch(x))
        x = x + self.drop_path2(self.mlp_branch(x))
        return x


class TanhMaskedBlock(MaskedBlock):
    """A masked block as in the paper: tanh of the token mask scales what enters both branches.

    Its slope at the initial 3 is 0.0099, so a short search hardly moves it.
    """

    def __init__(self, block: Any, num_patches: int, num_prefix_tokens: int) -> None:
        super().__init__(block, num_patches, num_prefix_tokens)
        nn.init.constant_(self.token_mask, 3.0)

    def log_token_mask(self) -> Tensor:
        """Of all tokens: (N,), 0 for those that stay, whatever scales them."""
        return F.pad(torch.where(self.kept > 0, 0.0, DROPPED), (self.num_prefix_tokens, 0))

    def scaled(self, x: Tensor) -> Tensor:
        """Patches times their masks: (B, N, D)."""
        scale = F.pad(self.token_mask.tanh(), (self.num_prefix_tokens, 0), value=1.0)
        return x * scale.to(x.dtype)[:, None]


class MaskedVisionTransformer(MaskedModel):
    """A dense timm Vision Transformer whose blocks carry masks."""

    spec: VitSpec

    def mask_block(self, block: Any, index: int) -> nn.Module:
        """Put masks on one block."""
        del index
        kind = TanhMaskedBlock if self.token_mask_kind == "tanh" else MaskedBlock
        return kind(block, self.spec.num_patches, self.spec.num_prefix_tokens)

    def mask_values(self) -> Scores:
        """As for any family; besides, a token mask may be the tanh of its parameter."""
        live = self.live_masks()
        if self.token_mask_kind == "log":
            return live
        return replace(live, tokens=tuple(mask.tanh() for mask in live.tokens))

    def token_masks(self) -> tuple[nn.Parameter, ...]:
        """One mask per block."""
        return tuple(block.token_mask for block in self.blocks)

    @torch.no_grad()
    def harden(self, architecture: Architecture) -> "MaskedVisionTransformer":
        """As for any family; besides, kept tokens get mask 1, dropped ones leave the softmax."""
        super().harden(architecture)
        for block, positions in zip(self.blocks, architecture.tokens, strict=True):
            block.attn.hard = True
            block.token_mask.fill_(1.0 if self.token_mask_kind == "log" else torch.inf)
            mark_kept(block.kept, positions)
        return self

    def forward_head(self, features: Tensor) -> Tensor:
        """As for any family; besides, pooling weighs tokens by their masks."""
        if self.vit.global_pool in ("", "token"):
            return super().forward_head(features)
        x = self.vit.fc_norm(self._pool(features))
        logits: Tensor = self.vit.head(self.vit.head_drop(x))
        return logits

    def _pool(self, x: Tensor) -> Tensor:
        """timm's pooling over the tokens that are left: (B, N, D) to (B, D)."""
        spec, block, pooling = self.spec, self.blocks[-1], self.vit.global_pool
        log_mask = block.log_token_mask()
        if not spec.pool_include_prefix:
            x, log_mask = x[:, spec.num_prefix_tokens :], log_mask[spec.num_prefix_tokens :]
        if pooling == "map":
            pooled: Tensor = self.vit.attn_pool(x, attn_mask=log_mask.to(x.dtype)[None])
            return pooled
        mask = log_mask.exp()[:, None]
        mean = (x * mask).sum(dim=1) / mask.sum()
        if pooling == "avg":
            return mean
        highest = x.masked_fill(mask == 0, -torch.inf).amax(dim=1)
        return highest if pooling == "max" else 0.5 * (highest + mean)


def _masked_norm(norm: Any, x: Tensor, kept: Tensor) -> Tensor:
    """A qk-norm with statistics over each head's kept dimensions: (B, H, N, d) to the same."""
    keep = kept[:, None, :]  # (H, 1, d)
    count = keep.sum(dim=-1, keepdim=True).clamp_min(1.0)
    if isinstance(norm, nn.LayerNorm):
        x = x - (x * keep).sum(dim=-1, keepdim=True) / count
    variance = (x * x * keep).sum(dim=-1, keepdim=True) / count
    x = x * torch.rsqrt(variance + norm.eps) * norm.weight
    bias = getattr(norm, "bias", None)
    return (x if bias is None else x + bias) * keep
