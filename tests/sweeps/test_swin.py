"""A sweep over a model that cannot drop tokens is planned with budgets that it can meet."""

import json
from pathlib import Path

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer

import run_sweep
import slim


@pytest.fixture
def swin(tmp_path: Path) -> Path:
    """A saved Swin for digits: 8 x 8 grey images, 10 classes."""
    torch.manual_seed(0)
    model = SwinTransformer(
        img_size=8,
        patch_size=2,
        in_chans=1,
        num_classes=10,
        embed_dim=16,
        depths=(2, 1),
        num_heads=(2, 4),
        window_size=2,
    )
    return slim.save(model, tmp_path / "swin")


def test_the_plan_keeps_every_token(swin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", "digits", "--tasks", "none", "--model", str(swin)]
    assert run_sweep.main([*arguments, "--trials", "4", "--dry-run=json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    first, *others = plan["budgets"]
    assert first["gmacs"] == plan["dense_gmacs"]
    assert [(b["tokens"], b["mhsa"], b["mlp"]) for b in others] == [
        *((1.0, share, share) for share in (0.75, 0.6, 0.45, 0.3)),
        (1.0, 0.1, 0.05),  # the smallest
    ]
    assert plan["dense_gmacs"] > others[0]["gmacs"] > others[1]["gmacs"] > others[2]["gmacs"] > 0
