import json
import math
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from shape_pictures import write_shapes
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath  # pyright: ignore[reportPrivateImportUsage]

from ossa.errors import ConfigError, DataError, RunFailed
from ossa.models.backbones.pretrained import read_backbone_weights
from ossa.models.detector import create_backbone
from ossa.train.pretrain import _classifier, pretrain, read_recipe

SMALL = {"imgsz": 48, "batch": 16, "epochs": 1, "lr": 0.004}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes with 32 pictures to train on and 10 to score."""
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes")


def pretrained(
    data: Path, out: Path, model: str = "test_resnet", recipe: str = "convnext", **changes: Any
) -> list[dict[str, Any]]:
    """Returns the rows of a small pretraining on the CPU."""
    settings = read_recipe(recipe, {**SMALL, **changes})
    return list(pretrain(model, data, out, recipe=settings, device="cpu", workers=0))


@pytest.fixture(scope="module")
def learned(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """The file and the rows of six epochs."""
    file = tmp_path_factory.mktemp("out") / "shapes.safetensors"
    return file, pretrained(shapes, file, epochs=6)


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(str(file), "pt") as archive:
        return archive.metadata()


def test_a_network_learns_to_tell_three_shapes_apart(learned: tuple[Path, list[Any]]):
    _, rows = learned
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["top1"] >= 0.8  # by chance 0.33
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert all(row["seconds"] > 0 for row in rows)


def test_the_learning_rate_warms_up_and_falls_along_a_cosine(learned: tuple[Path, list[Any]]):
    _, rows = learned
    # 6 epochs of 6 batches; 0.4 epochs of warm-up, over when the first of them ends.
    expected = [0.004 * (1 + math.cos(math.pi * (6 * epoch - 1) / 36)) / 2 for epoch in range(1, 7)]
    assert [row["lr"] for row in rows] == pytest.approx(expected)


def test_the_file_says_all_that_a_detector_must_know_of_its_weights(
    learned: tuple[Path, list[Any]],
):
    metadata = metadata_of(learned[0])
    assert len(metadata.pop("recipe_sha256")) == 64
    assert metadata == {
        "architecture": "test_resnet",
        "mean": json.dumps(IMAGENET_DEFAULT_MEAN),
        "std": json.dumps(IMAGENET_DEFAULT_STD),
        "model_args": '{"num_classes": 3}',
        "pretraining": "shapes (3 classes, 96 images)",
        "license": "unknown",
        "epoch": "6 of 6",
    }


def test_the_file_alone_makes_a_pretrained_backbone(learned: tuple[Path, list[Any]]):
    file, _ = learned
    saved = load_file(file)
    weights, metadata = read_backbone_weights(str(file))
    backbone = create_backbone("test_resnet", weights=weights, imgsz=64)
    loaded = {
        key.removeprefix("network."): tensor
        for key, tensor in backbone.state_dict().items()
        if key.startswith("network.")
    }
    assert set(saved) - set(loaded) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(tensor, saved[key]) for key, tensor in loaded.items())
    assert weights.mean == IMAGENET_DEFAULT_MEAN
    whole = timm.create_model("test_resnet", **json.loads(metadata["model_args"]))
    whole.load_state_dict(saved, strict=True)


def test_a_transformer_is_pretrained_at_its_size_and_becomes_a_backbone_of_another(
    shapes: Path, tmp_path: Path
):
    file = tmp_path / "vit.safetensors"
    pretrained(shapes, file, "test_vit")
    weights, _ = read_backbone_weights(str(file))
    assert weights.build_args == {"num_classes": 3, "img_size": 48}
    backbone = create_backbone("test_vit", weights=weights, imgsz=64)
    key = "blocks.1.attn.qkv.weight"
    assert torch.equal(backbone.state_dict()[f"trunk.network.model.{key}"], load_file(file)[key])


def test_the_seed_decides_everything(shapes: Path, tmp_path: Path):
    files = [tmp_path / f"{name}.safetensors" for name in ("one", "same", "other")]
    seeds = zip(files, (3, 3, 4), strict=True)
    losses = [pretrained(shapes, file, seed=seed)[0]["train_loss"] for file, seed in seeds]
    assert losses[0] == losses[1] != losses[2]
    one, same, other = (load_file(file) for file in files)
    assert all(torch.equal(tensor, same[key]) for key, tensor in one.items())
    assert not torch.equal(one["fc.weight"], other["fc.weight"])


def test_the_folder_may_be_called_validation(shapes: Path, tmp_path: Path):
    copytree(shapes / "train", tmp_path / "train")
    copytree(shapes / "val", tmp_path / "validation")
    assert len(pretrained(tmp_path, tmp_path / "out.safetensors")) == 1


def test_the_recipe_is_that_of_the_paper():
    # Liu et al., A ConvNet for the 2020s, table 5, ImageNet-1k.
    recipe = read_recipe("convnext", {})
    assert (recipe["lr"], recipe["lr_batch"], recipe["epochs"]) == (4e-3, 4096, 300)
    assert recipe["optimizer"] == {"opt": "adamw", "weight_decay": 0.05, "betas": [0.9, 0.999]}
    assert recipe["schedule"] == {"sched": "cosine", "warmup_epochs": 20, "warmup_lr": 0}
    assert recipe["mixup"] == {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.1}
    assert recipe["augment"]["auto_augment"].startswith("rand-m9-mstd0.5-inc1")
    assert recipe["augment"]["re_prob"] == 0.25
    assert recipe["average"]["decay"] == 0.9999
    assert recipe["imgsz"] == 224


@pytest.mark.parametrize(
    ("model", "rate"),
    [
        ("convnext_tiny", 0.1),
        ("convnext_small.fb_in1k", 0.4),
        ("convnext_base", 0.5),
        ("roadmap_gelu", 0.1),
    ],
)
def test_larger_networks_drop_more_paths(model: str, rate: float):
    with torch.device("meta"):
        network, _ = _classifier(model, read_recipe("convnext", {}), 10)
    rates = [module.drop_prob for module in network.modules() if isinstance(module, DropPath)]
    assert rates[-1] == pytest.approx(rate)


def test_the_learning_rate_is_in_proportion_to_the_batch_unless_it_is_given(
    shapes: Path, tmp_path: Path
):
    recipe = {key: value for key, value in SMALL.items() if key != "lr"}
    settings = read_recipe("convnext", recipe)
    assert settings["lr"] * settings["batch"] / settings["lr_batch"] == 0.004 * 16 / 4096
    given = read_recipe("convnext", {**recipe, "lr": 0.01})
    assert given["lr"] * given["batch"] / given["lr_batch"] == 0.01
    rows = list(
        pretrain(
            *("test_resnet", shapes, tmp_path / "out.safetensors"),
            recipe=settings,
            device="cpu",
            workers=0,
        )
    )
    # The sixth of six batches stands at five sixths of the cosine.
    assert rows[0]["lr"] == pytest.approx(0.004 * 16 / 4096 * (1 + math.cos(math.pi * 5 / 6)) / 2)


def test_the_warm_up_shrinks_with_the_epochs():
    assert read_recipe("convnext", {"epochs": 30})["schedule"]["warmup_epochs"] == pytest.approx(2)


def test_a_recipe_of_ones_own_names_what_is_other(tmp_path: Path):
    (tmp_path / "own.yaml").write_text("epochs: 100\noptimizer: {opt: lamb}\n")
    own, known = read_recipe(str(tmp_path / "own.yaml"), {}), read_recipe("convnext", {})
    assert own["schedule"]["warmup_epochs"] == 20
    assert own["optimizer"] == {**known["optimizer"], "opt": "lamb"}
    assert {key for key in known if own[key] != known[key]} == {"epochs", "optimizer"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epoch: 3", "there is no setting 'epoch'. Did you mean epochs?"),
        ("mixup: {mixup: 1}", "timm does not take these settings: .*'mixup'"),
        ("optimizer: {opt: adamm}", "timm does not take these settings: .*adamm"),
    ],
)
def test_a_setting_that_there_is_not_is_refused(
    text: str, sentence: str, shapes: Path, tmp_path: Path
):
    recipe = tmp_path / "own.yaml"
    recipe.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        pretrained(shapes, tmp_path / "out.safetensors", recipe=str(recipe))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch": 15}, "expected an even --batch, .* found 15 and 1"),
        ({"batch": 98}, "no more than 96 images"),
        ({"epochs": 0}, "--epochs from 1 on, found 16 and 0"),
        ({"model": "test_resnot"}, "no model named 'test_resnot'. Did you mean test_resnet"),
        ({"model": "vgg11"}, "timm does not take these settings: .*drop_path_rate"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_written(
    changes: dict[str, Any], sentence: str, shapes: Path, tmp_path: Path
):
    with pytest.raises(ConfigError, match=sentence):
        pretrained(shapes, tmp_path / "out.safetensors", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_data_set_is_refused(shapes: Path, tmp_path: Path):
    out = tmp_path / "out.safetensors"
    with pytest.raises(DataError, match=r"expected images in .*/nothing/train/CLASS/, found none"):
        pretrained(tmp_path / "nothing", out)
    copytree(shapes / "train", tmp_path / "train")
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match=r"expected images in .*/val/CLASS/, found none"):
        pretrained(tmp_path, out)
    copytree(shapes / "val" / "circle", tmp_path / "val" / "round")
    with pytest.raises(DataError, match=r"found 3 and 1, not in both \['circle', 'round', 'squa"):
        pretrained(tmp_path, out)


def test_a_loss_that_is_no_number_ends_the_run_and_writes_nothing(shapes: Path, tmp_path: Path):
    out = tmp_path / "out.safetensors"
    with pytest.raises(RunFailed, match="the loss of epoch 1 is nan: try a smaller --lr"):
        pretrained(shapes, out, lr=1e30)
    assert not out.exists()
