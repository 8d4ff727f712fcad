"""Every value of an experiment, with its meaning and its default."""

from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from sweeps.stage_config import (
    DenseConfig,
    FinetuneConfig,
    Fraction,
    NonNegative,
    Positive,
    SearchConfig,
    Seed,
    ShareConfig,
    TransferConfig,
    VitConfig,
)

FRESH_EPOCHS = 20


@dataclass(frozen=True)
class JudgeConfig:
    """The study of budgets that are extracted and evaluated on val without training of their own.

    Args:
        budgets: To judge, 0 for none; default: 250, and 0 with the method `retrain`.
        sampler: Optuna's sampler that picks them, and the trained ones after the first: `tpe`,
            `gp` or `random`.
        images: Of val, at most, that they are evaluated on, drawn by chance once for all; 0 for
            all. Trained networks are evaluated on all.
        batch: Budgets proposed at once; the same for any number of workers, so that these do not
            change what is judged.
        start: Share of the trials that start from the judged front, read without the noise of a
            part of val, as training is expected to leave it: of what a network lost to the dense
            model it regains most, but little of what was lost with tokens. Those come first that
            add most to the hypervolume; the sampler goes on from there.
        trust: Kendall's tau between judged and trained accuracy below which trials are added.
        extra_trials: How many, when the two disagree; default: a third of the trials.
    """

    budgets: NonNegativeInt | None = None
    sampler: Literal["tpe", "gp", "random"] = "tpe"
    images: NonNegativeInt = 1500
    batch: PositiveInt = 16
    start: ClosedUnitInterval = 0.7
    trust: ClosedUnitInterval = 0.5
    extra_trials: NonNegativeInt | None = None


@dataclass(frozen=True)
class SpaceConfig:
    """Where the sampler may look, and where it starts.

    Args:
        dimensions: Those that are cut, comma-separated; `--space=mhsa` is short for this.
        tokens_min: Smallest token budget; the largest is 1. A model that cannot drop tokens has 1.
        mhsa_min: Smallest MHSA budget; the largest is 1.
        mlp_min: Smallest MLP budget; the largest is 1.
        uniform: Budgets judged first (tried first, where none are judged), each for all
            dimensions alike, after the dense one; where that is below a dimension's smallest
            budget, this one.
    """

    dimensions: str = "tokens,mhsa,mlp"
    tokens_min: Fraction = 0.2
    mhsa_min: Fraction = 0.1
    mlp_min: Fraction = 0.05
    uniform: list[Fraction] = field(default_factory=lambda: [0.75, 0.6, 0.45, 0.3])


@dataclass(frozen=True)
class SweepConfig:
    """One experiment.

    Args:
        name: Of the run and its folder; default: data, model and date.
        data: The source task: mnist, digits, fashion-mnist[-IMAGES[+MORE]][:FOLDER] (of 3,000
            images, or as many as it says, and more for val and test alone), animal-mnist, an image
            folder, torch/NAME:FOLDER of torchvision, or hfds/FOLDER or hfds/NAME of Hugging Face.
        tasks: Transfer tasks, comma-separated; `none` for none; `auto`, where the data is
            embedded, for those of digits, fashion-mnist and animal-mnist that are here and are not
            the data.
        download: Let torchvision and Hugging Face fetch what is missing of the data and tasks.
        model: `vit` for a fresh timm VisionTransformer shaped by --vit.*, the name of any timm ViT
            or Swin, or the folder of a saved network from which nothing is cut, such as a run's
            `dense/` (./NAME for a folder called as a model is). Pretrained weights of a named
            model are trained by AdamW at rates of 1e-4 (search: 5e-5), unless --STAGE.opt or
            --STAGE.lr is given; a saved network is trained as a fresh one.
        pretrained: Load timm's pretrained weights of a named model from its hub.
        weights: Local file (safetensors or state dict) with a named model's weights.
        searched: Name of a run in the same storage whose data, dense model and search are taken
            instead of a search of its own; with the method `share` its shared weights too, if
            they were trained by the same values for all budgets of the space.
        cluster: `auto` joins the Ray cluster that the environment names or that `ray start` runs
            here, else starts one; `local` always starts one; anything else is an address.
        method: `judge` judges many budgets on the searched weights, repaired but not trained,
            and fine-tunes the best; `share` trains weights that all budgets share before it judges
            on these; `retrain`, the paper's way, trains every budget alone and judges none.
        trials: Networks of the sweep, the dense one counted, which is trained only with
            --finetune.dense.
        patience: End the sweep before --trials when so many in a row have together added less than
            --min-gain to the front's hypervolume, unless judging misled; 0 for never.
        min_gain: What the hypervolume must gain for --patience to go on, in percent of the box
            from chance at 1.1 times the dense MACs to 100 % at no cost.
        repeats: Trainings of each trained network of the front, each with its own seed; from 2 on,
            `repeats.csv` has them all.
        max_gmacs: Largest cost of a budget, in 1e9 MACs of one image.
        max_params_m: Most parameters of a budget, in millions.
        max_latency_ms: Longest time of one image on a worker's device, in milliseconds: the 5 %
            quantile of repeated runs, which other load hardly changes. Measured on every judged
            and every trained network; a slower one is not trained (PRUNED), and the run ends after
            judging if all are slower. The dense model, which is trial 0, may be slower.
        target_gmacs: Costs, comma-separated, for each of which the best split among the
            dimensions is sought; nothing else is judged or trained, but for the dense model.
        concurrency: Trials in flight at most; default: as many as the cluster holds when the run
            begins, at most 64. More than it holds then wait for nodes that join.
        workers_per_trial: Processes that train one network together, in trials and their repeats,
            each with its share of every batch.
        workers_per_stage: Processes that train the dense model together, then its masks, then
            weights that are shared; default: --workers-per-trial.
        cpus_per_trial: CPUs of one trial, of each of its workers.
        gpus_per_trial: GPUs of one trial, of each of its workers; a fraction shares one among
            trials of a single worker; default: 1 where the cluster has GPUs.
        kept_outputs_gb: Trials see the same images in the same order, so the dense model's outputs
            for these are kept in the run's folder while trials run, if they take no more than
            this, and trials that come later read them; else each runs the dense model. 0 for
            never.
        kept_images_gb: Val images of files, decoded and cut to size, that each worker keeps in
            memory for the networks and epochs that it evaluates later; what does not fit is
            decoded each time.
        max_retries: How often a trial or stage is tried again, from its last state, after its
            worker died.
        seed: Of everything random.
        storage: Folder for runs, which all nodes must see, or a bucket (s3://BUCKET/PREFIX,
            gs://BUCKET/PREFIX), whose credentials the environment of every node has.
        tracking_uri: MLflow's tracking server or database.
        register: Register the front's networks as versions of an MLflow model of the run's name,
            with aliases such as macs-50, the most accurate of at most half the dense MACs.
        verbose: Show the libraries' logs.
        vit: Shape of the fresh model.
        dense: Training of the dense model.
        search: The mask search.
        share: Weight-shared training of all budgets' networks, with the method `share`.
        judge: The study of budgets, none trained.
        space: Budgets to look among.
        finetune: Fine-tuning of each subnetwork.
        transfer: Fine-tuning on other tasks.
    """

    name: str | None = None
    data: str = "mnist"
    tasks: str = "auto"
    download: bool = False
    model: str = "vit"
    pretrained: bool = True
    weights: str | None = None
    searched: str | None = None
    cluster: str = "auto"
    method: Literal["judge", "share", "retrain"] = "judge"
    trials: PositiveInt = 18
    patience: NonNegativeInt = 0
    min_gain: Positive = 0.1
    repeats: PositiveInt = 1
    max_gmacs: PositiveFloat | None = None
    max_params_m: PositiveFloat | None = None
    max_latency_ms: PositiveFloat | None = None
    target_gmacs: str | float | None = None  # a number of a YAML is kept as text
    concurrency: PositiveInt | None = None
    workers_per_trial: PositiveInt = 1
    workers_per_stage: PositiveInt | None = None
    cpus_per_trial: PositiveInt = 1
    gpus_per_trial: NonNegative | None = None
    kept_outputs_gb: NonNegative = 2.0
    kept_images_gb: NonNegative = 0.5
    max_retries: NonNegativeInt = 3
    seed: Seed = 0
    storage: str = "runs"
    tracking_uri: str = "sqlite:///mlflow.db"
    register: bool = False
    verbose: bool = False
    vit: VitConfig = field(default_factory=VitConfig)
    dense: DenseConfig = field(default_factory=DenseConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    share: ShareConfig = field(default_factory=ShareConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    space: SpaceConfig = field(default_factory=SpaceConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)

    def to_dict(self) -> dict[str, Any]:
        """All values, nested as in the YAML."""
        return asdict(self)


def dense_epochs(config: SweepConfig) -> int:
    """Epochs the dense model is trained: as configured, else none unless it is fresh."""
    return _or(config.dense.epochs, FRESH_EPOCHS if config.model == "vit" else 0)


def workers_per_stage(config: SweepConfig) -> int:
    """Processes that train the network of a stage before the trials."""
    return _or(config.workers_per_stage, config.workers_per_trial)


def resolved(config: SweepConfig) -> SweepConfig:
    """Every default that depends on other values, filled in."""
    judge, judges = config.judge, config.method != "retrain"
    share_epochs = 5 if config.method == "share" else 0
    budgets = _or(judge.budgets, 250 if judges else 0)
    return replace(
        config,
        dense=replace(config.dense, epochs=dense_epochs(config)),
        share=replace(config.share, epochs=_or(config.share.epochs, share_epochs)),
        judge=replace(
            judge,
            budgets=budgets,
            extra_trials=_or(judge.extra_trials, config.trials // 3 if budgets else 0),
        ),
    )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names, as on the command line."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """Build a nested configuration from the dictionary of `to_dict`."""
    read = {}
    for f in fields(kind):
        value = values[f.name]
        inner = f.default_factory() if callable(f.default_factory) else None
        read[f.name] = from_dict(type(inner), value) if is_dataclass(inner) else value
    return kind(**read)
