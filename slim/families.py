"""The families of models: how each is masked, slimmed, counted and walked through."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import slim.swin.cost
import slim.swin.resample
import slim.swin.stream
import slim.vit.cost
import slim.vit.resample
import slim.vit.stream
from slim.architecture import Architecture
from slim.macs import Cost
from slim.masked_model import MaskedModel
from slim.network import SlimNetwork
from slim.spec import ModelSpec
from slim.swin.masks import MaskedSwinTransformer
from slim.swin.subnetwork import SlimSwinBlock, SlimSwinTransformer
from slim.vit.masks import MaskedVisionTransformer
from slim.vit.subnetwork import (
    SlimBlock,
    SlimVisionTransformer,
    SlimVisionTransformerDistilled,
)


@dataclass(frozen=True)
class Family:
    """What the shared machinery asks of a family.

    Args:
        masked: Puts masks on a dense model, given its spec (and how a token mask acts); takes its
            modules over.
        networks: The class of a subnetwork, by that of timm's model.
        slim_block: Builds one block of a subnetwork.
        count_outside: Costs what is not in a block: patch embedding, pooling, classifier.
        count_block: Costs one block.
        paper_macs: MACs of one block as ViT-Slim counts them, given the patches that leave the
            block before.
        embed: Maps (model, images) to the residual stream that enters the first block.
        enter: Maps (model, name of a block, stream) to the stream at that block.
        branch: Maps (block, `attn` or `mlp`, stream) to what the branch adds to the stream.
        resample: Fits (parameters by name, old architecture, new) to another grid, in place.
    """

    masked: Callable[..., MaskedModel]
    networks: Mapping[type[nn.Module], type[SlimNetwork]]
    slim_block: Callable[[Architecture, int], nn.Module]
    count_outside: Callable[[Architecture], Cost]
    count_block: Callable[[Architecture, int], Cost]
    paper_macs: Callable[[Architecture, int, int], int]
    embed: Callable[[Any, Tensor], Tensor]
    enter: Callable[[Any, str, Tensor], Tensor]
    branch: Callable[[Any, str, Tensor], Tensor]
    resample: Callable[[dict[str, Tensor], Architecture, Architecture], None]


FAMILIES = {
    "vit": Family(
        masked=MaskedVisionTransformer,
        networks={
            VisionTransformer: SlimVisionTransformer,
            VisionTransformerDistilled: SlimVisionTransformerDistilled,
        },
        slim_block=SlimBlock,
        count_outside=slim.vit.cost.count_outside,
        count_block=slim.vit.cost.count_block,
        paper_macs=slim.vit.cost.paper_macs,
        embed=slim.vit.stream.embed,
        enter=slim.vit.stream.enter,
        branch=slim.vit.stream.branch,
        resample=slim.vit.resample.resample,
    ),
    "swin": Family(
        masked=MaskedSwinTransformer,
        networks={SwinTransformer: SlimSwinTransformer},
        slim_block=SlimSwinBlock,
        count_outside=slim.swin.cost.count_outside,
        count_block=slim.swin.cost.count_block,
        paper_macs=slim.swin.cost.paper_macs,
        embed=slim.swin.stream.embed,
        enter=slim.swin.stream.enter,
        branch=slim.swin.stream.branch,
        resample=slim.swin.resample.resample,
    ),
}


def family_of(spec: ModelSpec) -> Family:
    """The family of a model."""
    return FAMILIES[spec.family]
