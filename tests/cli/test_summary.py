import pytest

from cnnjax.cli.main import run
from tests.cli.commands import last_json, only_line


def test_rows_and_totals_as_json(capsys):
    assert run(["summary", "lenet5", "--json"]) == 0
    result = last_json(capsys)
    assert result["totals"]["params"] == 61_706
    assert result["totals"]["macs"] == sum(row["macs"] for row in result["rows"]) == 416_520
    first = result["rows"][0]
    assert {**first, "activation_bytes": None} == {
        "path": "c1",
        "kind": "Conv",
        "output_shape": [28, 28, 6],
        "params": 156,
        "macs": 117_600,
        "activation_bytes": None,
        "receptive_field": [5, 5],
    }


def test_a_table_for_another_head_and_image(capsys):
    assert run(["summary", "simple_cnn", "--input-shape", "16", "12", "3", "--num-classes", "7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("simple_cnn on one 16x12x3 image")
    logits = next(line for line in lines if line.startswith("head/logits"))
    assert logits.split()[:4] == ["head/logits", "Dense", "7", f"{128 * 7 + 7}"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lenet6"], "unknown model 'lenet6': did you mean 'lenet5'?"),
        (["vgg16", "--input-shape", "16", "16", "3"], "at least 32x32 pixels"),
        (["vgg16", "--input-shape", "0", "16", "3"], "expected three positive numbers"),
        (["vgg16", "--num-classes", "0"], "expected at least 1, got 0"),
        (["tests.training.nets:TinyNet"], "--input-shape: expected H W C"),
    ],
)
def test_a_mistake_is_one_line(capsys, words, message):
    assert run(["summary", *words]) == 2
    assert message in only_line(capsys)


def test_a_module_of_the_users_own(capsys):
    assert run(["summary", "tests.training.nets:LinearNet", "--input-shape", "4", "4", "1", "--num-classes", "4"]) == 0
    assert "Dense" in capsys.readouterr().out
