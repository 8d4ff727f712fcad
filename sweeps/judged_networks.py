"""The networks of a run's `judged.csv`, cut again."""

from torch import nn

import slim
from slim.calibration import Calibration
from slim.tasks import load_task
from sweeps.dense import saved_preprocessing
from sweeps.run_folder import RunFolder
from sweeps.untrained import calibration_for, repair_where_it_helps


class JudgedNetworks:
    """Cuts networks as a run judges them.

    Args:
        run: The run's folder, `STORAGE/NAME`; its data must be where it was.
        device: Where networks are repaired and evaluated.

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
        """The network of a budget, extracted, and repaired if it is better on val, seen twice."""
        vit = slim.extract(self.checkpoint, self.checkpoint.select(budget)).to(self.device)
        repair_where_it_helps(vit, self.calibration, self.task, self.preprocessing)
        return vit
