"""The command line as a user meets it: what each verb does and says."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from cnnjax.cli.main import run
from tests.cli.commands import TRAIN, last_json, read_csv


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


def test_data_list_and_prepare(tmp_path, capsys):
    assert run(["data", "list", "--json"]) == 0
    rows = {row["name"]: row for row in last_json(capsys)["datasets"]}
    assert {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "imagenet2012"} == set(rows)
    assert {"name", "prepared", "train", "test", "classes", "sources"} <= set(rows["mnist"])
    assert run(["data", "prepare", "digits", "--data-dir", str(tmp_path), "--json"]) == 0
    assert pathlib.Path(last_json(capsys)["prepared"]).is_dir()
    assert run(["data", "list", "--data-dir", str(tmp_path)]) == 0
    assert str(tmp_path) in capsys.readouterr().out
