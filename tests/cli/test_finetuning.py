"""Training that starts from a file of weights, with a part of the net frozen."""

from cnnjax import pretrained
from cnnjax.cli import modelling
from cnnjax.cli.main import run
from cnnjax.cli.output import Output
from tests.cli.commands import TRAIN, last_json, only_line


def leaves(path, capsys):
    capsys.readouterr()
    assert run(["digest", str(path), "--json"]) == 0
    return last_json(capsys)["leaves"]


def test_frozen_layers_keep_the_files_bits_and_the_others_learn(workdir, tmp_path, capsys):
    state, _, _ = modelling.restore(workdir, Output(as_json=True))
    weights = tmp_path / "lenet5.safetensors"
    pretrained.save(state.variables, weights)
    words = [*TRAIN[:-1], "--epochs", "1", "--no-tensorboard", "--weights", str(weights), "--freeze", "^c[13]/"]
    assert run([*words, "--workdir", str(tmp_path / "tuned")]) == 0
    assert "10 loaded" in capsys.readouterr().out
    before, after = leaves(workdir, capsys), leaves(tmp_path / "tuned", capsys)
    params = {name for name in before if name.startswith("params/")}
    assert {name for name in params if before[name] == after[name]} == {
        f"params/{layer}/{kind}" for layer in ("c1", "c3") for kind in ("kernel", "bias")
    }
    # The same words again find a finished run; another choice of what is frozen is another run.
    assert run([*words, "--workdir", str(tmp_path / "tuned")]) == 0
    capsys.readouterr()
    assert run([*words[:-1], "^c1/", "--workdir", str(tmp_path / "tuned")]) == 2
    assert "freeze" in only_line(capsys)


def test_mistakes_are_one_line(tmp_path, capsys):
    (tmp_path / "no.safetensors").write_bytes(b"text")
    for options, code, message in (
        (["--weights", str(tmp_path / "none.pth")], 1, "none.pth"),
        (["--weights", str(tmp_path / "no.safetensors")], 1, "no.safetensors"),
        (["--freeze", "^stem"], 2, "'^stem' matches no parameter"),
    ):
        assert run([*TRAIN, *options, "--workdir", str(tmp_path / "run")]) == code
        assert message in capsys.readouterr().err
