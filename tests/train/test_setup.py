"""What a training starts from: weights, anchors, and what the record says of them."""

import json
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_run import Notes

from ossa.config import ModelConfig, RunConfig, TrainConfig
from ossa.data.anchors import fit_anchors
from ossa.data.reading import read_data
from ossa.data.synthetic import write_scenes
from ossa.errors import ConfigError
from ossa.files import sha256_of
from ossa.models.checkpoint import save_checkpoint
from ossa.models.detector import Detector, build_detector, create_detector
from ossa.train.diagnostics import check_single_values
from ossa.train.loop import train
from ossa.train.run_folder import read_log
from ossa.train.schedule import few_images_note, warmup_note, why_ap_is_zero
from ossa.train.setup import init_run
from ossa.train.splits import with_fitted_anchors
from ossa.train.state import TrainState

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    return write_scenes(folder, images={"train": 2, "val": 2}, imgsz=128)


def prepared(model: ModelConfig, data: Path, callback: Notes | None = None) -> TrainState:
    config = RunConfig(model=model, data=str(data), train=TrainConfig(imgsz=64))
    return init_run(config, Path("run"), device=CPU, callback=callback or Notes())


def saved_detector(file: Path, *, num_classes: int) -> Path:
    """Writes a yolov5n whose anchors are one pixel larger than YOLOv5's."""
    model = ModelConfig(name="yolov5n", neck="own")
    detector = build_detector(model, num_classes=num_classes, imgsz=64)
    detector.head.get_buffer("anchors_wh").add_(1)
    names = tuple(str(number) for number in range(num_classes))
    details = {"pretraining": "coco", "licence": "AGPL-3.0"}
    save_checkpoint(file, detector, model=model, names=names, imgsz=64, details=details)
    return file


def test_runs_of_the_same_seed_start_from_the_same_weights_and_data(scenes: Path):
    model = ModelConfig(name="yolov5n", neck="own")
    one, two = (prepared(model, scenes) for _ in range(2))
    weights, others = one.detector.state_dict(), two.detector.state_dict()
    assert all(torch.equal(weights[key], others[key]) for key in weights)
    train, val = one.train.index.fingerprint(), one.val.index.fingerprint()
    assert train != val
    assert one.identity["data"] == two.identity["data"] == f"{train}-{val}"


def test_a_checkpoint_of_other_classes_starts_the_head_anew_and_says_so(
    scenes: Path, tmp_path: Path
):
    file = saved_detector(tmp_path / "old.safetensors", num_classes=7)
    callback = Notes()
    state = prepared(ModelConfig(name="yolov5n", neck="own", weights=str(file)), scenes, callback)
    assert callback.notes[1].endswith("(other classes: the head starts anew)")
    assert callback.notes[2].startswith("their licence, AGPL-3.0, may hold for what is trained")
    assert not state.is_whole
    assert state.initial_weights == {
        "file": str(file),
        "sha256": sha256_of(file),
        "pretraining": "coco",
        "licence": "AGPL-3.0",
    }
    # Trained with these anchors, the weights keep them.
    anchors_wh = state.detector.head.get_buffer("anchors_wh")
    assert anchors_wh[0].tolist() == [[11, 14], [17, 31], [34, 24]]


def test_a_training_from_a_whole_detector_of_its_classes_says_what_that_had_reached(
    scenes: Path, tmp_path: Path
):
    model = ModelConfig(name="yolov5n", neck="own")
    detector, names = build_detector(model, num_classes=4, imgsz=64), read_data(scenes).index.names
    file = tmp_path / "old.safetensors"
    save_checkpoint(file, detector, model=model, names=names, imgsz=64, details={})
    model = model.model_copy(update={"weights": str(file)})
    config = RunConfig(model=model, data=str(scenes), train=TrainConfig(imgsz=64, epochs=1))
    callback = Notes()
    (tmp_path / "run").mkdir()
    train(config, tmp_path / "run", callback=callback)
    assert "AP before the training, on val: 0.000" in callback.notes


def test_anchors_that_are_asked_for_win_over_those_of_the_checkpoint(scenes: Path, tmp_path: Path):
    file = saved_detector(tmp_path / "old.safetensors", num_classes=4)
    anchors_wh = (((4.0, 5.0),) * 3, ((8.0, 9.0),) * 3, ((16.0, 17.0),) * 3)
    model = ModelConfig(name="yolov5n", neck="own", weights=str(file), anchors_wh=anchors_wh)
    state = prepared(model, scenes)
    for network in (state.detector, state.ema.network):
        assert torch.equal(network.head.get_buffer("anchors_wh"), torch.tensor(anchors_wh))


def test_the_weights_of_a_backbone_are_recorded_with_their_origin(scenes: Path, tmp_path: Path):
    file = tmp_path / "backbone.safetensors"
    metadata = {
        "mean": json.dumps([0.5, 0.5, 0.5]),
        "std": json.dumps([0.5, 0.5, 0.5]),
        "pretraining": "imagenet-1k",
        "license": "apache-2.0",
    }
    save_file(timm.create_model("mobilenetv2_050").state_dict(), file, metadata)
    model = ModelConfig(name="mobilenetv2_050", neck="n", backbone_weights=str(file))
    state = prepared(model, scenes)
    assert state.initial_weights == {
        "file": str(file),
        "sha256": sha256_of(file),
        "pretraining": "imagenet-1k",
        "licence": "apache-2.0",
    }
    assert state.cost["params"] == sum(p.numel() for p in state.detector.parameters())


@pytest.mark.parametrize(
    ("side", "note"),
    [
        # The objects of the scenes are 6 to 19 px wide and high here.
        (14.0, "best possible recall of the anchors: 1.0000"),
        (1.0, "best possible recall of the anchors: 0.0000; under 0.98 --fit-anchors may help"),
    ],
)
def test_a_training_tells_how_many_boxes_its_anchors_can_answer_for(
    scenes: Path, side: float, note: str
):
    callback = Notes()
    anchors_wh = (((side, side),),) * 3
    prepared(ModelConfig(name="yolov5n", neck="own", anchors_wh=anchors_wh), scenes, callback)
    assert callback.notes[2:] == [note]


def test_anchors_are_fitted_to_the_training_split_of_the_run(scenes: Path):
    config = RunConfig(
        model=ModelConfig(name="yolov5n", neck="own"), data=str(scenes), train=TrainConfig(imgsz=64)
    )
    fitted, larger = (
        with_fitted_anchors(config.model_copy(update={"train": TrainConfig(imgsz=imgsz)}))
        for imgsz in (64, 128)
    )
    assert fitted.model.anchors_wh is not None
    assert larger.model.anchors_wh is not None
    # At twice the size the anchors are twice as large, up to the tenth that they are rounded to.
    for small, large in zip(fitted.model.anchors_wh, larger.model.anchors_wh, strict=True):
        assert torch.allclose(2 * torch.tensor(small), torch.tensor(large), atol=0.16)
    assert fitted.model_copy(update={"model": config.model}) == config


def test_anchors_are_fitted_to_the_images_that_train_and_to_no_others(tmp_path: Path):
    data = write_scenes(tmp_path / "scenes", images={"train": 8, "val": 2}, imgsz=128)
    damaged = sorted((data.parent / "images" / "train").iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    model = ModelConfig(name="yolov5n", neck="own")
    settings = TrainConfig(imgsz=64, fraction=0.5)
    config = RunConfig(model=model, data=str(data), train=settings)
    trained = init_run(config, Path("run"), device=CPU, callback=Notes()).train.index
    assert len(trained) == 4  # half of 7, rounded to even
    expected = fit_anchors(trained, num_levels=3, imgsz=64, seed=config.seed)
    fitted = with_fitted_anchors(config).model.anchors_wh
    assert torch.equal(torch.tensor(fitted), torch.tensor(expected.tolist()))


def test_the_position_embedding_of_a_transformer_does_not_decay(scenes: Path):
    state = prepared(ModelConfig(name="test_vit", neck="n"), scenes)
    embedding = state.detector.get_parameter("backbone.trunk.network.model.pos_embed")
    (group,) = (
        group
        for group in state.optimizer.param_groups
        if any(parameter is embedding for parameter in group["params"])
    )
    assert (group["name"], group["weight_decay"]) == ("norms", 0)


def test_a_transformer_trained_at_another_image_size_starts_with_its_positions_resampled(
    scenes: Path, tmp_path: Path
):
    model, file = ModelConfig(name="test_vit", neck="n"), tmp_path / "vit.safetensors"
    detector = build_detector(model, num_classes=4, imgsz=96)
    names = tuple("abcd")
    save_checkpoint(file, detector, model=model, names=names, imgsz=96, details={})
    callback = Notes()
    state = prepared(model.model_copy(update={"weights": str(file)}), scenes, callback)
    assert "position embedding resampled from images of 96 px to those of 64 px" in callback.notes
    embedding = state.detector.get_parameter("backbone.trunk.network.model.pos_embed")
    assert embedding.shape[1] == 1 + 4 * 4  # a class token, patches of 16 px


# Warm-up and batches of one image, as they are told before the first epoch


def test_a_training_that_never_leaves_its_warm_up_says_so():
    note = warmup_note(TrainConfig(epochs=50, warmup_limit=None), images=2)  # a batch per epoch
    assert note is not None
    assert "the warm-up, which takes 100 batches of 50:" in note
    assert warmup_note(TrainConfig(epochs=50), images=2) is None


def test_few_images_and_few_steps_name_the_recipe_for_them():
    config = TrainConfig(epochs=40, batch=16, nominal_batch=64, warmup_epochs=0)
    note = few_images_note(config, images=160)
    assert note is not None
    assert note.startswith("160 images give 100 optimizer steps in 40 epochs: --recipe quick ")
    assert few_images_note(config, images=1000) is None
    assert few_images_note(config.model_copy(update={"nominal_batch": 16}), images=160) is None


def epochs_of(*losses: float, images: int = 160, skipped: int = 0) -> list[dict[str, float]]:
    """Returns the log of a training."""
    return [{"images": images, "skipped": skipped, "train_box": loss} for loss in losses]


STEADY = TrainConfig(epochs=100, batch=16, nominal_batch=16, warmup_epochs=0)


@pytest.mark.parametrize(
    ("config", "log", "reason"),
    [
        (TrainConfig(epochs=50, warmup_limit=None), epochs_of(9, 8, images=2), "never leaves the"),
        (STEADY.model_copy(update={"epochs": 3}), epochs_of(9, 5), "30 optimizer steps are few"),
        (
            STEADY.model_copy(update={"epochs": 12, "nominal_batch": 64}),
            epochs_of(9, 5),
            "30 optimizer steps are few",  # 120 batches, a step after every fourth
        ),
        (STEADY, epochs_of(9, 5, skipped=101), "202 of 1000 steps were left out"),
        (STEADY, epochs_of(9, 8.9), "the loss did not fall (9 to 8.9)"),
        (STEADY, epochs_of(9, 5), "the loss fell, but not far enough"),
    ],
)
def test_a_training_that_finds_nothing_says_the_likeliest_reason(
    config: TrainConfig, log: list[dict[str, float]], reason: str
):
    assert reason in why_ap_is_zero(config, log)


def settings_of(name: str, *, imgsz: int = 64, **settings: bool | int) -> RunConfig:
    model = ModelConfig(name=name, neck="own" if name == "yolov5n" else "n")
    train = TrainConfig.model_validate({"imgsz": imgsz, **settings})
    return RunConfig(model=model, data="cells", train=train)


@cache
def detector_of(name: str, imgsz: int) -> Detector:
    with torch.device("meta"):
        return create_detector(name, num_classes=2, neck="n", imgsz=imgsz)


@pytest.mark.parametrize(
    ("name", "imgsz", "batch", "images", "processes", "norms"),
    [
        ("yolov5n", 32, 4, 5, 1, 15),  # maps of 1 x 1 cell
        ("skresnet18", 64, 4, 6, 2, 8),  # pooled features; a last image for each process
        ("skresnet18", 64, 4, 7, 1, 0),
        ("yolov5n", 64, 1, 5, 1, 0),
    ],
)
def test_norms_with_one_value_in_the_last_batch_are_told(
    name: str, imgsz: int, batch: int, images: int, processes: int, norms: int
):
    config = settings_of(name, imgsz=imgsz, batch=batch)
    detector = detector_of(name, imgsz)
    note = check_single_values(detector, config, images=images, processes=processes)
    if not norms:
        assert note is None
        return
    assert note is not None
    assert note.startswith(f"the last batch of an epoch has {images % batch} of {images} images")
    assert f"{norms} batch norms of {name}" in note
    compiled = settings_of(name, imgsz=imgsz, batch=batch, compile=True)
    with pytest.raises(ConfigError, match="or leave --compile out"):
        check_single_values(detector, compiled, images=images, processes=processes)
    assert (
        check_single_values(
            detector,
            config,
            images=images,
            processes=processes,
            frozen=frozenset(detector.state_dict()),
        )
        is None
    )


@pytest.mark.parametrize(
    ("name", "imgsz", "batch", "images", "processes", "advice"),
    [
        ("yolov5n", 32, 1, 5, 1, "take --batch 2 or more"),
        ("skresnet18", 64, 3, 9, 2, "take --batch 4 or more"),
        ("yolov5n", 32, 8, 1, 1, "train on 2 images or more"),
    ],
)
def test_norms_with_one_value_in_every_batch_are_refused_before_the_first(
    name: str, imgsz: int, batch: int, images: int, processes: int, advice: str
):
    config = settings_of(name, imgsz=imgsz, batch=batch)
    detector = detector_of(name, imgsz)
    with pytest.raises(ConfigError, match=f"batch norms of {name}.*one value per channel") as error:
        check_single_values(detector, config, images=images, processes=processes)
    assert advice in str(error.value)


def test_an_epoch_may_end_with_a_batch_of_one_image_of_one_cell(tmp_path: Path):
    data = write_scenes(tmp_path / "scenes", images={"train": 3, "val": 1}, imgsz=128)
    config = settings_of("test_byobnet", imgsz=32, epochs=1, batch=2)
    train(config.model_copy(update={"data": str(data)}), tmp_path)
    assert read_log(tmp_path)[0]["images"] == 3
