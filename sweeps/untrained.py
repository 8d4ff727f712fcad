"""Networks before any training of their own: extracted, and repaired where that helps."""

from pathlib import Path

from torch import nn

import slim
from slim.calibration import Calibration
from slim.evaluation import top1
from slim.processes import Processes
from slim.repair import repair_towards
from slim.tasks import Preprocessing, Task, load_task
from sweeps.config import SweepConfig
from sweeps.dense import saved_preprocessing
from sweeps.run_folder import RunFolder

_KEPT_STREAMS = 256 * 1024**2  # bytes of the dense model's streams, in each process that repairs


def calibration_for(
    config: SweepConfig, teacher: nn.Module, task: Task, preprocessing: Preprocessing
) -> Calibration:
    """What the networks of a run are repaired towards.

    Args:
        config: The run's.
        teacher: The dense model, on the device of the networks.
        task: The source task.
        preprocessing: What the networks expect of an image.
    """
    options = config.finetune
    batch_size = max(1, options.batch_size // options.accumulation)
    distorted = options.recipe().augmentation
    batches = task.calibration_batches(
        preprocessing, distorted, batch_size, options.repair_images, config.seed
    )
    return Calibration(teacher, (images for images, _ in batches), _KEPT_STREAMS)


def repair_where_it_helps(
    vit: nn.Module, calibration: Calibration | None, task: Task, preprocessing: Preprocessing
) -> float:
    """Repair a fresh subnetwork towards the dense model, unless it is better as it is.

    Args:
        vit: The subnetwork; changed in place.
        calibration: The dense model on a few images, on the subnetwork's device; None where
            nothing is repaired.
        task: The source task.
        preprocessing: What the network expects of an image.

    Returns:
        Top-1 on val of what is kept.
    """
    device = next(vit.parameters()).device
    seen, processes = (task, "val", preprocessing), Processes.current()
    unrepaired = top1(vit, *seen, device=device, processes=processes)
    if calibration is None:
        return unrepaired
    fresh = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    repair_towards(vit, calibration)
    repaired = top1(vit, *seen, device=device, processes=processes)
    if repaired < unrepaired:
        vit.load_state_dict(fresh)
    return max(repaired, unrepaired)


class JudgedNetworks:
    """Cuts the networks of a run's `judged.csv` as they were judged.

    Args:
        run: The run's folder; its data must be where it was.

    Raises:
        InputError: If there is no such run.
        SlimError: If the run has no checkpoint yet, or its data is gone.
    """

    def __init__(self, run: str | Path) -> None:
        folder = RunFolder.open(Path(run).parent, Path(run).name)
        config = folder.read_config()
        searched = folder.shared if config.share.epochs else folder.search
        self.checkpoint = slim.MaskCheckpoint.load(searched)
        self.task = load_task(config.data)
        self.preprocessing = saved_preprocessing(folder.dense)
        self.calibration: Calibration | None = None
        if config.finetune.repair_images:
            dense = slim.load(folder.dense)
            self.calibration = calibration_for(config, dense, self.task, self.preprocessing)

    def cut(self, budget: slim.Budget) -> nn.Module:
        """The network of a budget, extracted and repaired."""
        vit = slim.extract(self.checkpoint, self.checkpoint.select(budget))
        repair_where_it_helps(vit, self.calibration, self.task, self.preprocessing)
        return vit
