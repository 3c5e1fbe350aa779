"""A user's mistakes: one line, the exit code as promised, nothing lost."""

import numpy as np
import pytest
from PIL import Image

from cnnjax.cli.main import run
from tests.cli.commands import TRAIN, cnnjax, only_line


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "lenet", "--dataset", "digits"], 2, "unknown model 'lenet': did you mean 'lenet5'?"),
        (["train", "lenet5", "--dataset", "digit"], 2, "unknown dataset 'digit': did you mean 'digits'?"),
        (
            ["train", "lenet5", "--recipe", "lenet5-mnst"],
            2,
            "unknown recipe 'lenet5-mnst': did you mean 'lenet5-mnist'",
        ),
        (["train", "lenet5"], 2, "expected MODEL and --dataset NAME, or --recipe NAME"),
        ([*TRAIN, "--optimizer", "sdg"], 2, "unknown optimizer 'sdg': did you mean 'sgd'"),
        ([*TRAIN, "--schedule", "cosin"], 2, "did you mean 'cosine'"),
        ([*TRAIN, "--augment", "translat:2"], 2, "did you mean 'translate'"),
        ([*TRAIN, "--epochs", "0"], 2, "--epochs: expected at least 1, got 0"),
        ([*TRAIN, "--batch-size", "5000"], 2, "5000"),
        ([*TRAIN, "--validation", "5000"], 2, "validation"),
        ([*TRAIN, "--learning-rate", "-1"], 2, "--learning-rate: expected a number above 0, got -1.0"),
        ([*TRAIN, "--image-size", "16"], 2, "at least 28x28 pixels, got 16x16"),
        ([*TRAIN, "--monitor", "val_f1", "--patience", "1"], 2, "unknown metric to monitor 'val_f1'"),
        ([*TRAIN, "--validation", "0", "--patience", "2"], 2, "needs validation examples"),
        ([*TRAIN, "--validation", "0", "--keep-best"], 2, "--keep-best: nothing to watch"),
        ([*TRAIN, "--aux-weight", "nan"], 2, "--aux-weight: expected a finite number, got nan"),
        ([*TRAIN, "--optimizer", "adam", "--momentum", "0.9"], 2, "--momentum: adam has no momentum. Leave it out, or"),
        (
            [*TRAIN, "--schedule", "cosine", "--factor", "0.1"],
            2,
            "--lr-decay: the cosine schedule does not fall in",
        ),
        ([*TRAIN, "--crop", "20"], 2, "--crop: it is about weights that a run starts from. Give --weights FILE too."),
        ([*TRAIN, "--which", "ema"], 2, "--which: it is about weights that a run starts from"),
        ([*TRAIN, "--boundaries", "0.5"], 2, "--boundaries: the one-cycle schedule does not fall in steps"),
        ([*TRAIN, "--decay", "kernels"], 2, "--decay-mask: no parameter decays. Leave it out, or give a weight decay."),
        ([*TRAIN, "--min-delta", "0.1"], 2, "--min-delta: nothing stops early. Leave it out, or give --patience."),
        ([*TRAIN, "--monitor", "val_loss"], 2, "--monitor: nothing is watched. Leave it out, or give --patience or"),
        ([*TRAIN, "--aux-weight", "0.3"], 2, "--aux-weight: lenet5 has no auxiliary heads. Leave it out."),
        ([*TRAIN, "--rates", "c1=0.1", "c1=0.5"], 2, "--lr-multipliers: expected each REGEX once"),
        ([*TRAIN, "--profile", "²:³"], 2, "--profile: expected STEP:STEP"),
        ([*TRAIN, "--profile", "500:600"], 2, "--profile: the run has steps 0 to 81, none of them in 500:600"),
        ([*TRAIN, "--seed", "4294967296"], 2, "--seed: expected 0 to 4294967295"),
        ([*TRAIN, "--warmup-epochs", "nan"], 2, "--warmup-epochs"),
        ([*TRAIN, "--weight-decay", "nan"], 2, "--weight-decay"),
        ([*TRAIN, "--augment", "translate:100"], 2, "fewer than 32 pixels"),
        (["trian"], 2, "unknown verb 'trian': did you mean 'train'?"),
        ([*TRAIN, "--epochs", "x"], 2, "invalid int value: 'x'"),
        ([*TRAIN, "--epoch-s", "3"], 2, "unknown option --epoch-s: did you mean --epochs?"),
        (["train", "no.such.module:Net", "--dataset", "digits"], 2, "cannot import model 'no.such.module:Net'"),
        (["train", "pathlib:Path", "--dataset", "digits"], 2, "is not a Flax linen module's class"),
        (["train", "lenet5", "--dataset", "folder:/no/such/folder"], 1, "/no/such/folder"),
        (["digest", "/no/such/run"], 1, "no checkpoint in /no/such/run"),
        (["eval", "--workdir", "/no/such/run"], 1, "no run in /no/such/run"),
        (["predict", "--workdir", "/no/such/run", "x.png"], 1, "no run in /no/such/run"),
        (["evaluate"], 2, "unknown verb 'evaluate'"),
        ([], 2, "required"),
    ],
    ids=lambda value: " ".join(value[-3:]) if isinstance(value, list) else None,
)
def test_a_users_mistake_is_one_line_and_its_exit_code(words, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(words) == code
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_a_mistake_leaves_no_workdir_behind_that_refuses_the_corrected_command(tmp_path, capsys):
    path = str(tmp_path / "run")
    assert run([*TRAIN, "--batch-size", "5000", "--workdir", path]) == 2
    assert run([*TRAIN, "--validation", "0", "--patience", "2", "--workdir", path]) == 2
    assert run([*TRAIN, "--augment", "translate:99", "--workdir", path]) == 2
    assert run([*TRAIN, "--epochs", "1", "--workdir", path]) == 0


def test_debug_brings_the_traceback_back():
    failed = cnnjax("digest", "/no/such/run", "--debug")
    assert failed.returncode == 1
    assert "Traceback" in failed.stderr
    assert cnnjax("train", "foo", "--dataset", "digits", "--debug").returncode == 2


def test_unreadable_images_are_named(workdir, tmp_path, capsys):
    text = tmp_path / "text.png"
    text.write_text("no image")
    short = tmp_path / "short.png"
    Image.fromarray(np.zeros((50, 50), np.uint8)).save(short)
    short.write_bytes(short.read_bytes()[:40])
    for path in (text, short, tmp_path / "missing.png", tmp_path):
        assert run(["predict", "--workdir", str(workdir), str(path)]) == 1
        assert str(path) in only_line(capsys)


def test_another_configuration_in_the_same_workdir_is_refused(workdir, capsys):
    assert run([*TRAIN, "--workdir", str(workdir), "--batch-size", "64"]) == 2
    assert "batch_size 32 there, 64 here" in capsys.readouterr().err


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run([*TRAIN, "--workdir", str(tmp_path / "file")]) == 1
    assert "cannot write the workdir" in only_line(capsys)
    assert run([*TRAIN, "--workdir", "/proc/cnnjax"]) == 1
    assert "cannot write the workdir /proc/cnnjax" in only_line(capsys)


def test_other_data_than_the_runs_are_refused_where_labels_would_mean_something_else(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for number in range(10):
            (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(tmp_path / "set" / name / f"{number}.png")
    words = ["--dataset", f"folder:{tmp_path / 'set'}?test=0.2", "--epochs", "1", "--batch-size", "8"]
    assert run(["train", "lenet5", *words, "--no-tensorboard", "--workdir", str(tmp_path / "run")]) == 0
    (tmp_path / "set" / "a").rename(tmp_path / "set" / "z")
    capsys.readouterr()
    assert run(["eval", "--workdir", str(tmp_path / "run")]) == 2
    assert "has other class_names than the run was trained with" in only_line(capsys)


def test_a_diverging_run_stops_naming_its_step(tmp_path, capsys):
    words = [*TRAIN, "--optimizer", "sgd", "--learning-rate", "1e30", "--schedule", "constant"]
    assert run([*words, "--workdir", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "the loss became" in error
    assert "at step" in error


def test_help_and_version(capsys):
    assert run(["--version"]) == 0
    assert run(["train", "--help"]) == 0
    assert "--checkpoint-every" in capsys.readouterr().out
