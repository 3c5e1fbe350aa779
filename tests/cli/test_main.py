"""The command line as a user meets it: in a process of its own, one line an error, exit codes as promised."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from cnnjax.cli.main import run

TRAIN = ["train", "lenet5", "--dataset", "digits", "--epochs", "2", "--no-tensorboard"]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(autouse=True)
def _own_data_dir(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", data_dir)


@pytest.fixture(scope="session")
def workdir(tmp_path_factory, data_dir):
    """A finished run of two epochs, shared by the tests that only read it."""
    path = tmp_path_factory.mktemp("runs") / "digits"
    os.environ["TFDS_DATA_DIR"] = data_dir
    assert run([*TRAIN, "--workdir", str(path), "--json"]) == 0
    return path


def cnnjax(*words, **options):
    """Run the command line in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "cnnjax", *map(str, words)], capture_output=True, text=True, timeout=300, **options
    )


def read_csv(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def last_json(capsys):
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1, lines
    return json.loads(lines[0], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def only_line(capsys):
    text = capsys.readouterr()
    assert text.err.count("\n") == 1, text.err
    assert "Traceback" not in text.err
    return text.err.strip()


def test_train_writes_a_run_and_says_what_it_found(tmp_path, capsys):
    path = tmp_path / "run"
    assert run(["train", "lenet5", "--dataset", "digits", "--epochs", "2", "--workdir", str(path), "--json"]) == 0
    result = last_json(capsys)
    keys = (
        "model dataset params epochs steps seconds train_loss val_loss val_accuracy test_loss test_accuracy test_top5"
    )
    assert set(keys.split()) | {"workdir", "seed"} <= set(result)
    assert (result["model"], result["params"], result["epochs"]) == ("lenet5", 61_706, 2)
    names = {p.name for p in path.iterdir()}
    assert names == {"checkpoints", "curves.png", "history.csv", "lock", "result.json", "run.json", "tensorboard"}
    rows = read_csv(path / "history.csv")
    assert float(rows[-1]["val_loss"]) == result["val_loss"]
    with Image.open(path / "curves.png") as curves:
        assert curves.size == (1200, 480)
    recorded = json.loads((path / "run.json").read_text())
    assert {"jax", "cores", "machine"} <= set(recorded["environment"])


def test_the_same_command_again_prints_the_result_and_trains_nothing(workdir, capsys):
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.name != "lock"}
    assert run([*TRAIN, "--workdir", str(workdir), "--json"]) == 0
    assert last_json(capsys) == json.loads((workdir / "result.json").read_text())
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.name != "lock"} == before


def test_equal_seeds_give_equal_digests_and_others_do_not(workdir, tmp_path, capsys):
    for seed in (0, 1):
        run([*TRAIN, "--workdir", str(tmp_path / str(seed)), "--seed", str(seed)])
    capsys.readouterr()
    digests = []
    for path in (workdir, tmp_path / "0", tmp_path / "1"):
        assert run(["digest", str(path), "--json"]) == 0
        digests.append(last_json(capsys))
    assert digests[0] == digests[1]
    assert digests[0]["digest"] != digests[2]["digest"]
    assert {"params/c1/kernel", "step", "key", "position/epoch", "opt_state/0/mu/c1/kernel"} <= set(
        digests[0]["leaves"]
    )


def test_eval_counts_every_example_once_whatever_the_batch(workdir, tmp_path, capsys):
    trained = json.loads((workdir / "result.json").read_text())
    for size in ("7", "355", "1000"):
        file = tmp_path / f"{size}.csv"
        words = ["eval", "--workdir", str(workdir), "--batch-size", size, "--dump-predictions", str(file), "--json"]
        assert run(words) == 0
        result = last_json(capsys)
        assert result["examples"] == 355
        assert result["accuracy"] == trained["test_accuracy"]
        assert result["loss"] == pytest.approx(trained["test_loss"], rel=1e-6)
        rows = read_csv(file)
        assert len({row["id"] for row in rows}) == 355
        right = sum(row["label"] == row["prediction"] for row in rows)
        assert right / 355 == result["accuracy"]
        confusion = np.array(result["confusion"])
        assert (confusion.sum(), confusion.trace()) == (355, right)
        np.testing.assert_allclose(list(result["per_class_accuracy"].values()), confusion.diagonal() / confusion.sum(1))


def test_eval_reads_the_validation_split_too(workdir, capsys):
    assert run(["eval", "--workdir", str(workdir), "--split", "validation", "--json"]) == 0
    trained = json.loads((workdir / "result.json").read_text())
    result = last_json(capsys)
    assert result["examples"] == 137
    assert result["accuracy"] == trained["val_accuracy"]
    assert run(["eval", "--workdir", str(workdir)]) == 0
    assert "confusion matrix" in capsys.readouterr().out


def test_predict_takes_any_size_and_mode_and_says_what_it_did(workdir, tmp_path, capsys):
    rng = np.random.default_rng(0)
    files = []
    for mode, size, name in (("RGBA", (64, 48), "a.png"), ("L", (8, 8), "b.png"), ("CMYK", (30, 90), "c.jpg")):
        channels = len(mode) if mode != "L" else None
        shape = (size[1], size[0], channels) if channels else (size[1], size[0])
        Image.fromarray(rng.integers(0, 256, shape, np.uint8), mode=None).convert(mode).save(tmp_path / name)
        files.append(str(tmp_path / name))
    assert run(["predict", "--workdir", str(workdir), *files, "--top", "3", "--json"]) == 0
    result = last_json(capsys)
    assert [p["image"] for p in result["predictions"]] == files
    for prediction in result["predictions"]:
        probabilities = [p["probability"] for p in prediction["predictions"]]
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)
        assert "8×8" in prediction["done"]
    assert run(["predict", "--workdir", str(workdir), files[0]]) == 0
    assert "64×48 RGBA" in capsys.readouterr().out


def test_predict_sees_what_eval_sees(workdir, tmp_path, capsys):
    """The test images written as PNG are classified as the evaluation classified them."""
    from cnnjax.data import load_dataset

    split = load_dataset("digits").test
    for number in range(20):
        Image.fromarray(split.images[number, ..., 0]).save(tmp_path / f"{number}.png")
    run(["eval", "--workdir", str(workdir), "--dump-predictions", str(tmp_path / "p.csv"), "--json"])
    capsys.readouterr()
    rows = {row["id"]: row["prediction"] for row in read_csv(tmp_path / "p.csv")}
    run(["predict", "--workdir", str(workdir), *(str(tmp_path / f"{n}.png") for n in range(20)), "--json"])
    predicted = [p["predictions"][0]["class"] for p in last_json(capsys)["predictions"]]
    assert predicted == [rows[split.ids[n]] for n in range(20)]


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
        ([*TRAIN, "--learning-rate", "-1"], 2, "learning_rate"),
        ([*TRAIN, "--image-size", "16"], 2, "at least 28x28 pixels, got 16x16"),
        ([*TRAIN, "--monitor", "val_f1", "--patience", "1"], 2, "unknown metric to monitor 'val_f1'"),
        ([*TRAIN, "--validation", "0", "--patience", "2"], 2, "needs validation examples"),
        ([*TRAIN, "--seed", "4294967296"], 2, "--seed: expected 0 to 4294967295"),
        ([*TRAIN, "--warmup-epochs", "nan"], 2, "--warmup-epochs"),
        ([*TRAIN, "--weight-decay", "nan"], 2, "weight_decay"),
        ([*TRAIN, "--augment", "translate:100"], 2, "fewer than 32 pixels"),
        (["trian"], 2, "unknown verb 'trian': did you mean 'train'?"),
        ([*TRAIN, "--epochs", "x"], 2, "invalid int value: 'x'"),
        ([*TRAIN, "--epoch-s", "3"], 2, "unknown option --epoch-s: did you mean --epochs?"),
        (["train", "no.such.module:Net", "--dataset", "digits"], 2, "cannot import model 'no.such.module:Net'"),
        (["train", "pathlib:Path", "--dataset", "digits"], 2, "is no Flax linen module class"),
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


def test_a_full_disk_ends_in_one_line_and_keeps_the_last_checkpoint(tmp_path, data_dir):
    """A limit on the size of a file stands in for the full disk: the system refuses the write in the same way."""
    path = tmp_path / "run"
    slow = [*TRAIN, "--epochs", "400", "--workdir", str(path), "--checkpoint-every", "50"]
    code = (
        "import resource, signal, sys, threading, pathlib\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "def fill():\n"
        f"    folder = pathlib.Path({str(path)!r}) / 'checkpoints'\n"
        "    while not list(folder.glob('step-*0-epoch-?????')): pass\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "threading.Thread(target=fill, daemon=True).start()\n"
        "from cnnjax.cli.main import main\n"
        f"sys.argv[1:] = {slow!r}\n"
        "main()\n"
    )
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert failed.returncode == 1, failed.stderr
    assert failed.stderr.count("\n") == 1, failed.stderr
    assert "could not save the checkpoint" in failed.stderr
    assert "File too large" in failed.stderr
    kept = cnnjax("digest", path, "--json")
    assert kept.returncode == 0
    assert json.loads(kept.stdout)["checkpoint"].startswith("step-")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, number, code):
    path = tmp_path / "run"
    words = [*TRAIN, "--epochs", "60", "--workdir", str(path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "cnnjax", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("epoch  2/60 "):
            process.send_signal(number)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert err.count("\n") == 1
    assert "stopping after this step and saving" in err
    last = out.splitlines()[-1]
    assert last.startswith(f"{signal.Signals(number).name}: stopped at step ")
    assert "saved" in last
    assert not any("stopped" in line for line in out.splitlines()[:-1])
    assert not (path / "result.json").exists()
    resumed = subprocess.Popen(
        [sys.executable, "-m", "cnnjax", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    seen = []
    for line in resumed.stdout:
        seen.append(line)
        if line.startswith("epoch "):
            resumed.send_signal(signal.SIGTERM)
            break
    resumed.communicate(timeout=120)
    step = int(last.split("at step ")[1].split()[0].strip(",").replace(",", ""))
    assert any(line.startswith(f"resuming at step {step} ") for line in seen)
    assert pathlib.Path(path / "history.csv").read_text().count("\n") >= 3


def test_a_run_whose_training_had_ended_is_only_tested(tmp_path, capsys):
    """Killed between the last checkpoint and the result, after early stopping: not one more step is taken."""
    path = tmp_path / "run"
    words = [*TRAIN, "--epochs", "20", "--patience", "1", "--min-delta", "10", "--workdir", str(path), "--json"]
    assert run(words) == 0
    first = last_json(capsys)
    history = (path / "history.csv").read_text()
    (path / "result.json").unlink()
    assert run(words) == 0
    captured = capsys.readouterr()
    assert "training had ended" in captured.err
    assert json.loads(captured.out) == first
    assert first["epochs"] == 2
    assert (path / "history.csv").read_text() == history


def test_a_run_killed_at_any_time_ends_as_if_it_had_not_been(workdir, tmp_path, capsys):
    path = tmp_path / "run"
    words = [*TRAIN, "--workdir", str(path), "--checkpoint-every", "7"]
    process = subprocess.Popen([sys.executable, "-m", "cnnjax", *words], stdout=subprocess.DEVNULL)
    while len(list((path / "checkpoints").glob("step-*7-epoch-?????"))) < 1 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (path / "result.json").exists()
    assert run(words) == 0
    capsys.readouterr()
    digests = []
    for each in (workdir, path):
        run(["digest", str(each), "--json"])
        digests.append(last_json(capsys)["leaves"])
    assert digests[0] == digests[1]


def test_signals_outside_the_loop_leave_in_one_line_too(tmp_path):
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        for delay in (1.2, 2.0):
            words = [*TRAIN, "--workdir", str(tmp_path / f"{code}-{delay}")]
            process = subprocess.Popen([sys.executable, "-m", "cnnjax", *words], stderr=subprocess.PIPE, text=True)
            time.sleep(delay)
            process.send_signal(number)
            _, err = process.communicate(timeout=120)
            assert process.returncode == code, err
            assert err.count("\n") == 1


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


def test_a_users_own_module_trains(tmp_path, monkeypatch, capsys):
    (tmp_path / "mynets.py").write_text(
        "from flax import linen as nn\n"
        "class Small(nn.Module):\n"
        "    num_classes: int = 3\n"
        "    @nn.compact\n"
        "    def __call__(self, x):\n"
        "        return nn.Dense(self.num_classes)(x.reshape(x.shape[0], -1))\n"
        "class Wrong(nn.Module):\n"
        "    @nn.compact\n"
        "    def __call__(self, x):\n"
        "        return nn.Dense(3)(x)\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["--dataset", "digits", "--epochs", "1", "--no-tensorboard", "--json", "--workdir"]
    assert run(["train", "mynets:Small", *words, "small"]) == 0
    assert last_json(capsys)["params"] == 64 * 10 + 10
    assert run(["train", "mynets:Wrong", *words, "wrong"]) == 2
    assert "Wrong gives (2, 8, 8, 3) for 2 images, expected logits of shape (2, 10)" in capsys.readouterr().err


def test_early_stopping_ends_a_run_with_its_best_epoch(tmp_path, capsys):
    path = tmp_path / "run"
    words = [*TRAIN, "--epochs", "30", "--learning-rate", "0.02", "--patience", "1", "--workdir", str(path), "--json"]
    assert run(words) == 0
    result = last_json(capsys)
    rows = read_csv(path / "history.csv")
    losses = [float(row["val_loss"]) for row in rows]
    assert result["epochs"] == len(rows) < 30
    assert result["best_epoch"] == int(np.argmin(losses)) + 1
    assert run(["eval", "--workdir", str(path), "--split", "validation", "--json"]) == 0
    assert last_json(capsys)["loss"] == pytest.approx(min(losses), rel=1e-6)


def test_a_diverging_run_stops_naming_its_step(tmp_path, capsys):
    words = [*TRAIN, "--optimizer", "sgd", "--learning-rate", "1e30", "--schedule", "constant"]
    assert run([*words, "--workdir", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "the loss became" in error
    assert "at step" in error


def test_data_list_and_prepare(tmp_path, capsys):
    assert run(["data", "list", "--json"]) == 0
    rows = {row["name"]: row for row in last_json(capsys)["datasets"]}
    assert {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100"} == set(rows)
    assert {"name", "prepared", "train", "test", "classes", "sources"} <= set(rows["mnist"])
    assert run(["data", "prepare", "digits", "--data-dir", str(tmp_path), "--json"]) == 0
    assert pathlib.Path(last_json(capsys)["prepared"]).is_dir()
    assert run(["data", "list", "--data-dir", str(tmp_path)]) == 0
    assert str(tmp_path) in capsys.readouterr().out


def test_help_and_version(capsys):
    assert run(["--version"]) == 0
    assert run(["train", "--help"]) == 0
    assert "--checkpoint-every" in capsys.readouterr().out
