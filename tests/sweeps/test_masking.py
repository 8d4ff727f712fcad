"""The search stage leaves a checkpoint that ranks as configured."""

from pathlib import Path

import pytest
import torch

import slim
from slim.tasks import load_task
from sweeps.config import SearchConfig, SweepConfig, VitConfig
from sweeps.dense import make_dense, preprocessing_for
from sweeps.masking import search_masks


@pytest.mark.parametrize("token_mask", ["log", "tanh"])
@pytest.mark.parametrize("score", ["mask", "taylor"])
def test_the_checkpoint_ranks_by_what_was_asked(
    tmp_path: Path, token_mask: str, score: str
) -> None:
    config = SweepConfig(
        data="digits",
        vit=VitConfig(img_size=8, patch_size=4, embed_dim=12, depth=2, num_heads=3),
        search=SearchConfig(epochs=1, token_mask=token_mask, score=score, score_images=64),
    )
    task = load_task("digits")
    model = make_dense(config, task)
    preprocessing = preprocessing_for(config, model, task)
    slim.save(model, tmp_path / "dense", {"preprocessing": preprocessing.to_json()})
    for _ in search_masks(config, task, tmp_path / "dense", tmp_path / "search", tmp_path / "s"):
        pass
    checkpoint = slim.MaskCheckpoint.load(tmp_path / "search")
    assert (checkpoint.scores is not None) == (score == "taylor")
    ranks = torch.cat([values.flatten() for values in checkpoint.ranking.mlp])
    assert ranks.std() > 0
    tokens = torch.cat(checkpoint.masks.tokens)
    assert bool(((tokens > 0) & (tokens <= 1)).all())
