"""The file of a study: what it may say, and what it is told."""

from pathlib import Path

import pytest
from tiny_studies import a_plan, a_study

from ossa.errors import ConfigError
from ossa.study.config import check_study, read_study


def test_a_study_of_ten_lines_is_read(tmp_path: Path):
    file = tmp_path / "bccd.yaml"
    file.write_text(
        "name: bccd-320\ndata: bccd\nmodels: [cspdarknet_n, resnet18]\nseeds: [0, 1]\n"
        "recipe: {base: yolov5-low, epochs: 60, imgsz: 320, batch: 16}\n"
    )
    study = read_study(file)
    assert (study.neck, study.initial_weights, study.reported.weights) == ("s", "none", "last")
    sections = study.recipe.sections(tmp_path)
    assert (sections["train"]["epochs"], sections["train"]["imgsz"]) == (60, 320)
    assert sections["augment"]["mosaic"] == 1.0  # of the base


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"neks": "s"}, "there is no setting 'neks'. Did you mean neck"),
        ({"recipe": {"epoch": 3}}, "there is no setting 'recipe.epoch'. Did you mean epochs"),
        ({"models": []}, "models: "),
        ({"models": ["resnet18", "resnet18"]}, "models has resnet18 more than once"),
        ({"seeds": [1, 2, 1]}, "seeds has 1 more than once"),
        ({"initial_weights": {"resnet50": "none"}}, "initial_weights names resnet50, which is not"),
        ({"reported": {"weights": "best"}}, "the best epoch is chosen on val"),
        ({"vary": {"train.lrr": [1, 2]}}, "vary has 'train.lrr'"),
        ({"vary": {"train.lr": [0.1]}}, "vary.train.lr needs at least two different values"),
        (
            {"vary": {"model.head": ["anchor", "dense"]}},
            "vary has 'model.head': list them under 'heads' instead",
        ),
        ({"vary": {"model.neck": ["n", "s"]}}, "vary has 'model.neck', expected a setting of"),
        ({"heads": ["dense", "dense"]}, "heads has dense more than once"),
        ({"heads": []}, "heads: "),
        ({"neck_types": ["pan"]}, "neck_types.0: "),
        ({"executor": "cloud"}, "executor.kind: "),
        ({"name": "a/b"}, "name: "),
        ({"budgets": {"fps": [1]}}, "budgets.fps"),
        ({"budgets": {"flops": [0]}}, "budgets.flops.0: input should be greater than 0"),
    ],
)
def test_what_a_study_cannot_say_is_told_in_a_sentence(settings: dict, sentence: str):
    with pytest.raises(ConfigError) as error:
        a_study(**settings)
    assert str(error.value).startswith(f"the test: {sentence}")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "Expected the file of a study, found no such file"),
        ("a: [", "found a syntax error"),
        ("- 1", "found [1]"),
    ],
)
def test_a_file_that_is_no_study_is_told(tmp_path: Path, content: str | None, sentence: str):
    file = tmp_path / "study.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError) as error:
        read_study(file)
    assert sentence in str(error.value)


def test_the_best_epoch_may_be_reported_on_another_split():
    study = a_study(reported={"weights": "best", "split": "test"})
    assert study.reported.weights == "best"


def test_one_word_chooses_the_executor():
    assert a_study(executor="slurm").executor.kind == "slurm"


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("cspdarknet_n", "cspdarknet"),
        ("yolov5s", "cspdarknet"),
        ("cspdarknet-w0.375-d0.33", "cspdarknet"),
        ("mobilenetv3_large_100", "mobilenet"),
        ("resnet18", "resnet"),
        ("repvgg_a0", "repvgg"),
        ("convnext_atto.d2_in1k", "convnext"),
        ("inception_v4", "inception"),
        ("efficientnetv2_rw_s", "efficientnet"),
        ("densenet121", "densenet"),
        ("cs3darknet_focus_s", "cs3darknet"),
        ("res2net50_14w_8s", "res2net"),
        ("tf_efficientnetv2_s", "efficientnet"),
        ("resnet10t", "resnet"),
    ],
)
def test_families_are_read_from_names(model: str, family: str):
    assert a_study().family(model) == family


def test_a_study_may_name_families_itself():
    study = a_study(families={"resnet10t": "mine"})
    assert study.family("resnet10t") == "mine"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"recipe": {"base": "../own.yaml"}}, "the name of a recipe: expected a path below"),
        ({"recipe": {"base": "/etc/own.yaml"}}, "the name of a recipe: expected a path below"),
        (
            {"models": ["resnet18"], "initial_weights": {"resnet18": "../w.safetensors"}},
            "initial_weights.resnet18: expected a path below",
        ),
        ({"models": ["hf-hub:timm/resnet18"]}, "model.name: string should match pattern"),
    ],
)
def test_a_study_names_nothing_outside_its_folder(settings: dict, sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        a_plan(**settings)


@pytest.mark.parametrize("looks", [[], [2, 5], [5, 3], [3, 3], [3, 10**12]])
def test_looks_are_increasing_numbers_of_seeds(looks: list[int]):
    content = {"name": "a", "data": "b", "models": ["resnet18"], "looks": looks}
    with pytest.raises(ConfigError, match="increasing numbers of seeds, 3 to 256"):
        check_study(content, where="the test")
