"""The engine's options through the command line: what was trained with is what is evaluated."""

import json

import numpy as np
import pytest

from cnnjax import runs
from cnnjax.cli.main import run
from tests.cli.commands import last_json, only_line, read_csv

WORDS = ["train", "tests.training.nets:TinyNet", "--dataset", "digits", "--batch-size", "120", "--no-tensorboard"]
OPTIONS = ["--epochs", "2", "--ema", "0.8", "--test-flip", "--accumulate", "2", "--on-nan", "skip", "--keep-best"]
OPTIONS += [
    "--decay",
    "kernels",
    "--weight-decay",
    "0.01",
    "--rates",
    "^Dense=0.5",
    "--augment",
    "translate:1",
    "mixup:0.2",
    "--sampling",
    "balanced",
]


def newest(workdir):
    found = runs.load_newest(workdir / "checkpoints")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def engine_run(tmp_path_factory, data_dir):
    """A run with most of the options, its result and what its dataset folder is."""
    path = tmp_path_factory.mktemp("engine") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", data_dir)
        assert run([*WORDS, *OPTIONS, "--workdir", str(path), "--json"]) == 0
    return path


def test_eval_finds_what_training_found_with_its_averages_and_mirror_images(engine_run, tmp_path, capsys):
    result = json.loads((engine_run / "result.json").read_text())
    dumped = tmp_path / "predictions.csv"
    assert run(["eval", "--workdir", str(engine_run), "--json", "--dump-predictions", str(dumped)]) == 0
    found = last_json(capsys)
    assert found["accuracy"] == result["test_accuracy"]
    np.testing.assert_allclose(found["loss"], result["test_loss"], rtol=1e-6)
    rows = read_csv(dumped)
    assert np.mean([row["label"] == row["prediction"] for row in rows]) == result["test_accuracy"]


def test_averages_are_part_of_the_checkpoint_and_of_the_digest(engine_run, capsys):
    _, arrays, position, _ = newest(engine_run)
    assert int(arrays["ema/count"]) == position["step"] == 22
    assert not np.array_equal(arrays["ema/params/Dense_0/kernel"], arrays["params/Dense_0/kernel"])
    assert run(["digest", str(engine_run), "--json"]) == 0
    assert "ema/params/Dense_0/kernel" in last_json(capsys)["leaves"]


def test_a_run_says_what_it_was_made_of_and_refuses_anything_else(engine_run, capsys):
    config = json.loads((engine_run / "run.json").read_text())["config"]
    assert (config["ema"], config["accumulate"], config["decay_mask"], config["lr_multipliers"]) == (
        0.8,
        2,
        "kernels",
        ["^Dense=0.5"],
    )
    file = engine_run / "run.json"
    today = file.read_text()
    # As a run of an earlier version was recorded.
    file.write_text(
        today.replace('"decay_mask"', '"decay"').replace('"lr_decay"', '"factor"').replace('"flip_tta"', '"test_flip"')
    )
    assert file.read_text() != today
    assert run([*WORDS, *OPTIONS, "--workdir", str(engine_run), "--json"]) == 0
    assert last_json(capsys) == json.loads((engine_run / "result.json").read_text())
    file.write_text(today)
    assert run([*WORDS, *OPTIONS, "--ema", "0.9", "--workdir", str(engine_run)]) == 2
    assert "ema 0.8 there, 0.9 here" in only_line(capsys)


def test_a_run_is_evaluated_by_its_own_loss_and_each_class_by_itself(tmp_path, capsys):
    words = [*WORDS, "--epochs", "1", "--loss", "sigmoid", "--class-weights", "balanced", "--label-smoothing", "0.1"]
    assert run([*words, "--workdir", str(tmp_path / "run"), "--json"]) == 0
    result = last_json(capsys)
    assert (
        result["test_loss"] < 1.5
    )  # a mean over ten questions of yes and no: ln 2 at first; softmax's begins at ln 10
    assert run(["eval", "--workdir", str(tmp_path / "run"), "--json", "--top", "3"]) == 0
    found = last_json(capsys)
    np.testing.assert_allclose(found["loss"], result["test_loss"], rtol=1e-6)
    matrix = np.array(found["confusion"], float)
    recall = matrix.diagonal() / matrix.sum(1)
    np.testing.assert_allclose(list(found["per_class_recall"].values()), recall)
    assert found["per_class_recall"] == found["per_class_accuracy"]
    f1 = 2 * matrix.diagonal() / (matrix.sum(0) + matrix.sum(1))
    np.testing.assert_allclose(list(found["per_class_f1"].values()), f1)
    assert found["accuracy"] <= found["top3"] <= found["top5"]
    for option, message in (
        (["--loss", "hinge"], "unknown loss 'hinge'"),
        (["--loss", "mse", "--label-smoothing", "0.1"], "--label-smoothing: the mse loss has none"),
        (["--class-weights", "balanced", "--sampling", "balanced"], "--sampling: classes count alike already"),
        (["--sampling", "equal"], "unknown way of sampling 'equal'"),
        (["--class-weights", "0.5"], "unknown way of weighting classes '0.5'"),
    ):
        assert run([*WORDS, *option]) == 2
        assert message in only_line(capsys)


def test_bfloat16_computes_in_it_and_keeps_parameters_in_float32(tmp_path, capsys):
    path = tmp_path / "run"
    words = ["train", "lenet5", "--dataset", "digits", "--batch-size", "300", "--epochs", "1", "--no-tensorboard"]
    assert run([*words, "--precision", "bfloat16", "--workdir", str(path), "--json"]) == 0
    result = last_json(capsys)
    _, arrays, *_ = newest(path)
    assert {value.dtype.name for name, value in arrays.items() if name.startswith("params/")} == {"float32"}
    assert run(["eval", "--workdir", str(path), "--json"]) == 0
    found = last_json(capsys)
    # Exactly: in float32 the same parameters give another loss.
    assert (found["loss"], found["accuracy"]) == (result["test_loss"], result["test_accuracy"])


def test_a_module_without_a_dtype_refuses_another_precision(tmp_path, capsys):
    assert run([*WORDS, "--precision", "bfloat16", "--workdir", str(tmp_path / "run")]) == 2
    assert "has no field `dtype`" in capsys.readouterr().err


def test_a_profile_can_be_read(tmp_path, capsys):
    assert run([*WORDS, "--epochs", "1", "--profile", "3:5", "--workdir", str(tmp_path / "run")]) == 0
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert list((tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--accumulate", "7"], "--accumulate: expected a divisor of the batch size, 120, got 7."),
        (["--ema", "1.5"], "--ema: expected a decay in (0, 1), such as 0.999, got 1.5."),
        (["--on-nan", "ignore"], "unknown answer to numbers that are not finite 'ignore'. Known: skip, stop."),
        (["--precision", "float8"], "unknown precision 'float8': did you mean"),
        (["--rates", "stem"], "--lr-multipliers: expected REGEX=FACTOR, such as '^stem=0.1', got 'stem'."),
        (["--rates", "(=0.1"], "rate factors: expected a regular expression, got '('"),
        (["--rates", "nowhere=0.1"], "rate factors: 'nowhere' matches no parameter."),
        (["--decay", "some"], "unknown choice of what decays 'some'"),
    ],
)
def test_each_mistake_is_one_line(words, message, tmp_path, capsys):
    assert run([*WORDS, "--epochs", "1", "--workdir", str(tmp_path / "run"), *words]) == 2
    assert message in only_line(capsys)
