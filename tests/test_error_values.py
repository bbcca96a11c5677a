import pickle

import pytest

from ossa import errors
from ossa.errors import DataError, OssaError


def test_an_error_of_fields_is_one_sentence_and_keeps_its_fields():
    error = DataError(
        expected="a box with positive area",
        found="width 0",
        path="labels/7.txt",
        line=3,
        advice="it was skipped; use --strict to stop instead",
    )
    assert str(error) == (
        "Expected a box with positive area, found width 0 (labels/7.txt, line 3). "
        "It was skipped; use --strict to stop instead."
    )
    assert (error.path, error.line, error.found) == ("labels/7.txt", 3, "width 0")
    assert error.reason == "expected a box with positive area, found width 0"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (DataError("no frame can be decoded"), "no frame can be decoded"),
        (DataError("could not write", path="a.pt"), "Could not write (a.pt)."),
        (DataError("The disk is full.", advice="Free some."), "The disk is full. Free some."),
        (DataError(expected="an image"), "Expected an image, found none."),
        (DataError(expected="a", found="b", advice="Did c?"), "Expected a, found b. Did c?"),
        (DataError(), ""),
    ],
)
def test_every_field_may_be_left_out(error, sentence):
    assert str(error) == sentence


@pytest.mark.parametrize("kind", ["ConfigError", "DataError", "CheckpointError", "RunFailed"])
def test_errors_survive_pickling_with_their_fields(kind):
    error = getattr(errors, kind)("said", path="x", line=7, advice="do")
    copied = pickle.loads(pickle.dumps(error))
    assert isinstance(copied, OssaError)
    assert type(copied) is type(error)
    assert (str(copied), copied.line) == (str(error), 7)


def test_a_refused_backbone_survives_pickling_with_its_model():
    error = errors.UnsupportedBackbone("has no strides", model="x", similar=("y",))
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.model) == (str(error), "x")


def test_what_a_foreign_file_says_cannot_command_a_terminal_or_fill_it():
    sentence = str(DataError(expected="a name", found="\x1b[31m" + "x" * 10_000, path="\x07"))
    assert sentence.isprintable()
    assert len(sentence) < 1200
