"""Slimming Vision Transformers under a budget of tokens, MHSA dimensions and MLP units."""

from slim.adapt import adapt
from slim.architecture import Architecture
from slim.budget import Budget
from slim.checkpoint import MaskCheckpoint
from slim.cost import Cost, count
from slim.errors import (
    BudgetError,
    DivergenceError,
    FileFormatError,
    RecipeError,
    SlimError,
    StoppedTraining,
    StorageError,
    TaskError,
    UnsupportedModelError,
)
from slim.extraction import extract
from slim.importance import taylor
from slim.latency import Latency, latency
from slim.layout_choice import fastest_layout, use_layout
from slim.masked_model import MaskedModel
from slim.masks import attach_masks
from slim.ranking import Scores
from slim.repair import repair
from slim.rounding import round_widths
from slim.search import Penalty, search_training
from slim.serving import add_about, export_onnx, load, save
from slim.spec import ModelSpec
from slim.swin.masks import MaskedSwinTransformer
from slim.swin.spec import SwinSpec
from slim.vit.masks import MaskedVisionTransformer
from slim.vit.spec import VitSpec

__all__ = [
    "Architecture",
    "Budget",
    "BudgetError",
    "Cost",
    "DivergenceError",
    "FileFormatError",
    "Latency",
    "MaskCheckpoint",
    "MaskedModel",
    "MaskedSwinTransformer",
    "MaskedVisionTransformer",
    "ModelSpec",
    "Penalty",
    "RecipeError",
    "Scores",
    "SlimError",
    "StoppedTraining",
    "StorageError",
    "SwinSpec",
    "TaskError",
    "UnsupportedModelError",
    "VitSpec",
    "adapt",
    "add_about",
    "attach_masks",
    "count",
    "export_onnx",
    "extract",
    "fastest_layout",
    "latency",
    "load",
    "repair",
    "round_widths",
    "save",
    "search_training",
    "taylor",
    "use_layout",
]
