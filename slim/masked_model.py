"""A dense model whose blocks carry masks, whatever its family."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from slim.architecture import Architecture
from slim.errors import SlimError
from slim.folded_linear import folded_linear
from slim.ranking import Scores
from slim.spec import ModelSpec

TokenMask = Literal["log", "tanh"]
# The smallest soft token mask: its logarithm must stay finite for the gradient.
SMALLEST_TOKEN_MASK = 1e-4


class MaskedLinear(nn.Module):
    """The last layer of an MLP, with a mask on every hidden unit that enters it.

    The mask is folded into the weights in each step, so it keeps no activations.
    """

    kept: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.mask = nn.Parameter(linear.weight.new_ones(linear.in_features))
        self.register_buffer("kept", torch.ones_like(self.mask), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, units) to (B, N, D)."""
        return folded_linear(x, self._fold, self.weight, self.bias, self.mask)

    def _fold(
        self, weight: Tensor, bias: Tensor | None, mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The masked weight, (D, units), and the bias as it is."""
        return weight * (mask * self.kept), bias


def mask_hidden_units(mlp: Any) -> Any:
    """Put a mask on the hidden units of an MLP of timm: its `fc2` becomes a `MaskedLinear`."""
    mlp.fc2 = MaskedLinear(mlp.fc2)
    return mlp


class MaskedModel(nn.Module, ABC):
    """A dense timm model whose blocks carry masks.

    A family says how one block is masked; its attention is then `attn` with a `mask` and a buffer
    `kept`, its MLP `mlp` with both in its `fc2`.

    Args:
        model: The dense model; its modules are taken over.
        spec: Its spec.
        token_mask: `log` or `tanh`, see `attach_masks`.
    """

    vit: Any

    def __init__(self, model: Any, spec: Any, token_mask: TokenMask = "log") -> None:
        super().__init__()
        self.token_mask_kind: TokenMask = token_mask
        self.spec: ModelSpec = spec
        self.vit = model
        for index, name in enumerate(spec.block_names):
            model.set_submodule(name, self.mask_block(model.get_submodule(name), index))

    @abstractmethod
    def mask_block(self, block: Any, index: int) -> nn.Module:
        """Put masks on one block."""

    def token_masks(self) -> tuple[nn.Parameter, ...]:
        """One mask per block, or none for a family that keeps every token."""
        return ()

    @property
    def blocks(self) -> list[Any]:
        """The masked blocks, in order."""
        return [self.vit.get_submodule(name) for name in self.spec.block_names]

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizers give no weight decay: those that its model tells, and
        the masks."""
        return {f"vit.{name}" for name in self.vit.no_weight_decay()} | set(self.mask_parameters())

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (B, C, H, W): logits (B, classes)."""
        return self.forward_head(self.vit.forward_features(images))

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of what leaves the final norm, timm's `forward_features`."""
        logits: Tensor = self.vit.forward_head(features)
        return logits

    def live_masks(self) -> Scores:
        """The mask parameters themselves, by dimension and block."""
        blocks = self.blocks
        return Scores(
            tokens=self.token_masks(),
            mhsa=tuple(block.attn.mask for block in blocks),
            mlp=tuple(block.mlp.fc2.mask for block in blocks),
        )

    def mask_values(self) -> Scores:
        """What the masks stand for, 0 to 1, with gradients to their parameters."""
        return self.live_masks()

    def masks(self) -> Scores:
        """The masks as they stand, detached copies."""
        return self.mask_values().map(lambda mask: mask.detach().clone())

    @torch.no_grad()
    def set_masks(self, masks: Scores) -> None:
        """Give every mask a value; the shapes are those of `masks`.

        Raises:
            SlimError: If the token masks are tanh of their parameters.
        """
        if self.token_mask_kind == "tanh":
            raise SlimError("token masks of the kind tanh cannot be set; attach the kind log")
        live = self.live_masks()
        for dimension in ("tokens", "mhsa", "mlp"):
            ours, theirs = getattr(live, dimension), getattr(masks, dimension)
            for mask, values in zip(ours, theirs, strict=True):
                mask.copy_(values)

    def mask_parameters(self) -> dict[str, nn.Parameter]:
        """The mask parameters by name; every other parameter is a weight of the dense model."""
        return {name: p for name, p in self.named_parameters() if name.endswith("mask")}

    @torch.no_grad()
    def clamp_masks(self) -> None:
        """Bring every mask back to [0, 1], token masks to where their logarithm is finite."""
        for name, mask in self.mask_parameters().items():
            if not name.endswith("token_mask"):
                mask.clamp_(0.0, 1.0)
            elif self.token_mask_kind == "log":
                mask.clamp_(SMALLEST_TOKEN_MASK, 1.0)

    @torch.no_grad()
    def harden(self, architecture: Architecture) -> Self:
        """Mask hard what an architecture does not keep: the reference that extraction must equal.

        Kept dimensions and units keep their mask's value.

        Returns:
            This model, changed in place.

        Raises:
            SlimError: If it is an architecture of another model.
        """
        own: Any = self.spec
        same_head = {"num_classes": own.num_classes, "global_pool": own.global_pool}
        if replace(architecture.spec, **same_head) != own:  # type: ignore[type-var]
            raise SlimError("the architecture is of another model than the masks are on")
        for i, block in enumerate(self.blocks):
            mark_kept(block.mlp.fc2.kept, architecture.units[i])
            for head, dims in enumerate(architecture.heads[i]):
                mark_kept(block.attn.kept[head], dims)
        return self

    def dense_state(self) -> dict[str, Tensor]:
        """The dense model's weights under timm's names, masks left out; not copied."""
        state = self.vit.state_dict()
        return {name: tensor for name, tensor in state.items() if not name.endswith("mask")}


def mark_kept(kept: Tensor, indices: tuple[int, ...]) -> None:
    """Set the kept entries of a buffer to 1, all others to 0."""
    kept.zero_()
    kept[list(indices)] = 1.0
