"""From a configuration to everything that a training needs before its first batch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ossa.config import ModelConfig, RunConfig, build_config, merge, refuse_window, settings_digest
from ossa.data.anchors import best_possible_recall
from ossa.data.annotations import DatasetIndex
from ossa.data.cache import CachePlace
from ossa.data.cache_files import content_fingerprint
from ossa.data.loader import EpochBatches
from ossa.errors import CheckpointError, ConfigError, legible
from ossa.files import sha256_of
from ossa.models.backbones.pretrained import read_header
from ossa.models.backbones.timm import warn_of_other_code
from ossa.models.checkpoint import read_checkpoint, start_from
from ossa.models.complexity import count_cost
from ossa.models.detector import PRESETS, Detector, build_detector, check_name
from ossa.recipes import load_recipe
from ossa.safe_yaml import read_yaml
from ossa.train.callbacks import Callback
from ossa.train.diagnostics import check_single_values
from ossa.train.distributed import SINGLE_PROCESS, DistributedContext
from ossa.train.optim import (
    EMA,
    build_optimizer,
    freeze,
    frozen_notes,
    learning_rate_scales,
    undecayed_parameters,
)
from ossa.train.provenance import OWN_CODE
from ossa.train.resume import STATE_FILE, Progress, load_state
from ossa.train.run_folder import CONFIG_FILE, LOG_FILE, read_config, recovered_rows
from ossa.train.schedule import few_images_note, warmup_note
from ossa.train.splits import read_training_data
from ossa.train.state import TrainState

_LOW_RECALL = 0.98
"""YOLOv5 fits anchors of its own below it."""


def run_config(
    *,
    data: Path | str,
    model: str,
    recipe: str = "yolov5-low",
    settings: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Returns the checked configuration of a run.

    Args:
        data: a data.yaml, or the folder of a data set.
        model: a preset (`yolov5n` to `yolov5x`), which brings its own neck, or any backbone,
            which gets YOLOv5's neck of scale s unless the settings name another.
        recipe: a shipped recipe, or the path of a YAML file.
        settings: laid over the recipe, such as {'train': {'epochs': 50}, 'seed': 1}.

    Raises:
        ConfigError: no such recipe, or a setting that is misspelt or out of range.
    """
    neck = "own" if model in PRESETS else "s"
    basis = {"data": str(data), "recipe": recipe, "model": {"name": model, "neck": neck}}
    return build_config(merge(merge(load_recipe(recipe), basis), settings or {}))


def init_run(
    config: RunConfig,
    folder: Path,
    *,
    device: torch.device,
    callback: Callback,
    strict: bool = False,
    allow_unlabeled: bool = False,
    cache: CachePlace = "none",
    distributed: DistributedContext = SINGLE_PROCESS,
) -> TrainState:
    """Reads the data, builds the detector and loads its initial weights; writes nothing.

    Raises:
        ConfigError, DataError, UnsupportedBackbone, CheckpointError: naming what does not fit.
    """
    refuse_window(config.augment)
    check_name(config.model.name)  # before images are decoded, which takes minutes
    train, val = read_training_data(
        config, callback=callback, strict=strict, allow_unlabeled=allow_unlabeled, cache=cache
    )
    _check_data_settings(config, train.index, distributed)
    torch.manual_seed(config.seed)
    detector, initial_weights, is_whole = _initial_detector(config, train.index.names, callback)
    cost = count_cost(detector, config.train.imgsz).flat(("params", "flops", "macs"))
    loss = detector.head.criterion(config.loss, imgsz=config.train.imgsz)
    detector.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.train.sync_batchnorm:
        nn.SyncBatchNorm.convert_sync_batchnorm(detector)  # in place
    frozen = freeze(detector, config.train.freeze)
    ranks, names = distributed.world_size, frozen.tensor_names
    for note in _notes(detector, train.index, config, names, ranks, is_whole):
        callback.note(note)
    return TrainState(
        config=config,
        device=device,
        distributed=distributed,
        callback=callback,
        folder=folder,
        train=train,
        val=val,
        batches=EpochBatches(
            len(train.index),
            batch=config.train.batch,
            seed=config.seed,
            epochs=config.train.epochs,
            share=distributed.share,
        ),
        detector=detector,
        frozen=frozen,
        ema=EMA(detector, decay=config.train.ema_decay, ramp=config.train.ema_ramp, frozen=names),
        optimizer=build_optimizer(
            detector,
            config.train,
            lr_scales=learning_rate_scales(detector, config),
            undecayed=undecayed_parameters(detector, config.model),
        ),
        loss=loss,
        progress=Progress(loss_sums=dict.fromkeys(loss.names, 0.0)),
        initial_weights=initial_weights,
        is_whole=is_whole,
        cost=cost,
        identity={
            "settings": config.digest(),
            "data": f"{train.index.fingerprint()}-{val.index.fingerprint()}",
            "images": distributed.on_main(
                lambda: f"{content_fingerprint(train.index)}-{content_fingerprint(val.index)}"
            ),
        },
    )


def resume_run(state: TrainState) -> None:
    """Brings a run to where its folder's state was saved.

    Raises:
        CheckpointError: no state, a damaged one, or one of other settings or data.
    """
    folder, config = state.folder, state.config
    older_settings = _settings_as_written(folder, config)
    state.progress = progress = load_state(
        folder,
        detector=state.detector,
        optimizer=state.optimizer,
        ema=state.ema,
        identity=state.identity,
        losses=state.loss.names,
        older_settings=older_settings,
        distributed=state.distributed,
    )
    code = progress.environment.get(OWN_CODE + config.model.name)
    warn_of_other_code(config.model.name, code, where=folder / STATE_FILE)
    state.batches.start_batch = progress.batch_number
    state.callback.note(f"going on in epoch {state.epochs_done + 1} of {config.train.epochs}")
    done, epochs = state.epochs_done, config.train.epochs
    metrics = [progress.metrics.get(name, {}) for name in ("last", "best")]
    complete = all({"ap", "ap50"} <= m.keys() and m.get("epoch") is not None for m in metrics)
    evaluated = any(map(state.is_evaluated, range(min(done, epochs))))
    if done > epochs or (evaluated and not complete):
        raise CheckpointError(
            f"{folder / STATE_FILE} is damaged and cannot be resumed from: expected metrics of at "
            f"most {epochs} epochs, found {done} epochs and metrics of "
            f"{legible(', '.join(progress.metrics)) or 'none'}; start a new run"
        )
    if done and not progress.rows:  # a state of an earlier version, which left them to the log
        progress.rows = recovered_rows(folder, done)
        if len(progress.rows) < done:
            state.callback.note(
                f"{folder / LOG_FILE} lacks {done - len(progress.rows)} of {done} epochs, which a "
                "state of this age does not hold: they stay out of it"
            )
    if older_settings not in (None, config.digest()):
        state.save()  # before the settings of this version replace those in the folder


def _settings_as_written(folder: Path, config: RunConfig) -> str | None:
    """Returns the digest of the settings in a run's folder as they stand there.

    It differs from today's digest where settings were added since; None where the folder has other
    settings, or none that can be read.
    """
    try:
        if read_config(folder).digest() != config.digest():
            return None
        return settings_digest(read_yaml(folder / CONFIG_FILE).value)
    except (ConfigError, OSError):
        return None


def _check_data_settings(
    config: RunConfig, index: DatasetIndex, distributed: DistributedContext
) -> None:
    """Raises ConfigError for settings that have no effect with these data or processes."""
    if config.loss.label_smoothing and len(index.names) == 1:
        raise ConfigError(
            f"loss.label_smoothing acts on the class loss, and {config.data} has one class, which "
            "needs none: leave it out"
        )
    ranks = distributed.world_size
    if len(index) < ranks:
        raise ConfigError(
            f"expected an image at least for each of {ranks} processes, found {len(index)} in the "
            f"training split of {config.data}"
        )
    if not config.train.sync_batchnorm:
        return
    if ranks == 1 or not torch.cuda.is_available():
        raise ConfigError(
            "train.sync_batchnorm needs several processes with a GPU each: start with torchrun, or "
            "leave it out"
        )
    last = len(index) % config.train.batch
    if 0 < last < ranks:
        raise ConfigError(
            f"train.sync_batchnorm: the last batch of an epoch has {last} of {len(index)} images, "
            f"fewer than the {ranks} processes: take another batch size"
        )


def _initial_detector(
    config: RunConfig, names: Sequence[str], callback: Callback
) -> tuple[Detector, dict[str, Any], bool]:
    """Returns the detector with its initial weights, what the record says of these, and whether
    they are those of a whole detector of these classes."""
    model = config.model
    detector = build_detector(
        model, num_classes=len(names), imgsz=config.train.imgsz, seed=config.seed
    )
    if model.weights is not None:
        checkpoint = read_checkpoint(model.weights)
        adapted = start_from(detector, checkpoint, backbone_only=model.equal_conditions)
        if model.anchors_wh is not None:  # asked for, so they win over those of the checkpoint
            anchors_wh = torch.tensor(model.anchors_wh)
            detector.head.get_buffer("anchors_wh").copy_(anchors_wh)
        loaded = len(checkpoint.tensors) - len(adapted.left_out)
        reason = "other classes: the head starts anew"
        if checkpoint.model.head != model.head:
            reason = "another head, which starts anew"
        if model.equal_conditions:
            reason = "equal conditions: of a whole detector, only the backbone is taken"
        callback.note(
            f"started from {loaded} of {len(checkpoint.tensors)} tensors of {model.weights}"
            + (f" ({reason})" if adapted.left_out else "")
        )
        if (licence := checkpoint.origin.get("licence")) is not None:
            callback.note(
                f"their licence, {legible(licence)}, may hold for what is trained from them"
            )
        if adapted.resampled:
            callback.note(
                f"position embedding resampled from images of {checkpoint.imgsz} px to those of "
                f"{config.train.imgsz} px"
            )
        is_whole = not adapted.left_out and tuple(checkpoint.names) == tuple(names)
        return detector, checkpoint.origin, is_whole
    return detector, _backbone_origin(model), False


def _backbone_origin(model: ModelConfig) -> dict[str, Any]:
    """Returns file or tag, sha256, pretraining data and licence of the backbone's weights."""
    file = sha256 = pretraining = licence = None
    if model.backbone_weights is not None:
        metadata, _ = read_header(model.backbone_weights)
        file, sha256 = str(Path(model.backbone_weights)), sha256_of(model.backbone_weights)
        pretraining, licence = metadata.get("pretraining"), metadata.get("license")
    elif model.pretrained and (tagged := timm.get_pretrained_cfg(model.name)) is not None:
        file = f"{tagged.architecture}.{tagged.tag}"
        pretraining, licence = tagged.tag, tagged.license
    return {"file": file, "sha256": sha256, "pretraining": pretraining, "licence": licence}


def _notes(
    detector: Detector,
    index: DatasetIndex,
    config: RunConfig,
    frozen: frozenset[str],
    processes: int,
    is_whole: bool,
) -> list[str]:
    """Returns what a user should know before the first batch.

    `--recipe quick` is for new heads: a whole detector of these classes forgets with it.
    """
    images = len(index)
    warmup = warmup_note(config.train, images=images)
    few = None if is_whole else few_images_note(config.train, images=images)
    single_values = check_single_values(
        detector, config, images=images, frozen=frozen, processes=processes
    )
    anchors = _anchors_note(detector, index, config)
    notes = (warmup, few, single_values, *frozen_notes(detector, config), anchors)
    return [note for note in notes if note is not None]


def _anchors_note(detector: Detector, index: DatasetIndex, config: RunConfig) -> str | None:
    """Returns which fraction of the boxes the anchors fit; None for a head without anchors."""
    anchors_wh = getattr(detector.head, "anchors_wh", None)
    if anchors_wh is None:
        return None
    recall = best_possible_recall(
        index,
        anchors_wh.cpu().numpy(),
        imgsz=config.train.imgsz,
        tiles=config.train.windows,
        ratio=config.loss.anchor_ratio,
    )
    few = f"; under {_LOW_RECALL} --fit-anchors may help" if recall < _LOW_RECALL else ""
    return f"best possible recall of the anchors: {recall:.4f}{few}"
