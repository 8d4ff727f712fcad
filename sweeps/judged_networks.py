"""The networks of a run's `judged.csv`, cut again."""

from torch import nn

import slim
from slim.calibration import Calibration
from slim.repair import repair_towards
from slim.tasks import load_task
from sweeps.dense import saved_preprocessing
from sweeps.run_folder import RunFolder
from sweeps.untrained import calibration_for


class JudgedNetworks:
    """Cuts networks as a run judges them.

    Args:
        run: The run's folder, `STORAGE/NAME`; its data must be where it was.
        device: Where networks are repaired.

    Raises:
        InputError: If there is no such run.
        SlimError: If the run has no checkpoint yet, or its data is gone.
    """

    def __init__(self, run: str, device: str = "cpu") -> None:
        storage, _, name = str(run).rstrip("/").rpartition("/")
        folder = RunFolder.open(storage or ".", name)
        config = folder.read_config()
        searched = folder.shared if config.share.epochs else folder.search
        self.checkpoint = slim.MaskCheckpoint.load(searched)
        self.task = load_task(config.data, config.download)
        self.preprocessing = saved_preprocessing(folder.dense)
        self.device = device
        self.calibration: Calibration | None = None
        if config.finetune.repair_images:
            dense = slim.load(folder.dense).to(device)
            self.calibration = calibration_for(config, dense, self.task, self.preprocessing)

    def cut(self, budget: slim.Budget) -> nn.Module:
        """The network of a budget, extracted, and repaired where the run repairs."""
        vit = slim.extract(self.checkpoint, self.checkpoint.select(budget)).to(self.device)
        if self.calibration is not None:
            repair_towards(vit, self.calibration)
        return vit
