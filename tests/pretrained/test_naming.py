"""Templates of names, read in both directions."""

import pytest

from cnnjax import models
from cnnjax.errors import UsageError
from cnnjax.pretrained.loading import abstract_shapes
from cnnjax.pretrained.naming import TORCH, Rule, as_rules, source_name, translate
from cnnjax.pretrained.rules import namings_for


@pytest.mark.parametrize(
    ("template", "into", "name", "expected"),
    [
        ("layer{i}.{j}.conv{k}", "stage{i}_block{j}/conv{k}", "layer1.10.conv2", "stage1_block10/conv2"),
        ("conv{i}_block{j}_{k}", "stage{i-1}_block{j-1}/{k}", "conv2_block1_3", "stage1_block0/3"),
        ("stage{i-1}", "conv{i}", "stage1", "conv2"),
        ("a{i+1}", "b{i+2}", "a1", "b2"),
        ("a{i+1}", "b{i}", "a0", None),
        ("a{i}", "b{i}", "ax", None),
        ("a{i}", "b{i}", "a1.b", None),
        ("inception{block}.branch1", "inception_{block}/b", "inception4a.branch1", "inception_4a/b"),
        ("{word}.x", "{word}", "a.b.x", None),
        ("{rest*}.x", "{rest*}", "a.b.x", "a.b"),
        ("{i}.{i}", "{i}", "3.3", "3"),
        ("{i}.{i}", "{i}", "3.4", None),
        ("a.b", "c", "axb", None),
        ("a", "b{i}", "a", None),
    ],
)
def test_templates_translate(template, into, name, expected):
    assert translate(template, into, name) == expected


def test_a_rule_whose_target_asks_for_more_than_its_source_has_is_refused():
    with pytest.raises(UsageError, match=r"rule 'a\{i\}' -> 'b\{j\}': its source has no \{j\}"):
        Rule("a{i}", "b{j}")


@pytest.mark.parametrize(
    "rules",
    ["linear", [("linear",)], ["linear", "head"], ("linear", "head"), [("a", "b", "c")], [("a", 3)], {"a": "b"}, 3],
    ids=str,
)
def test_what_is_no_list_of_rules_is_said(rules):
    with pytest.raises(UsageError, match=r"rules: expected a list of pairs of templates, .*, got "):
        as_rules(rules)
    assert as_rules([("a", "b"), ["c", ("d", "e")], Rule("f", None)]) == (
        Rule("a", "b"),
        Rule("c", ("d", "e")),
        Rule("f", None),
    )


def test_the_name_in_the_file_is_found_backwards():
    rules = (Rule("layer{i}", ("a{i}", "b{i}")), Rule("fc{i-1}", "dense{i}"), Rule("w", "params/w"))
    assert source_name("params/dense3/kernel", rules, TORCH) == "fc2.weight"
    assert source_name("batch_stats/dense3/var", rules, TORCH) == "fc2.running_var"
    assert source_name("params/w", rules, TORCH) == "w"
    assert source_name("params/a1/kernel", rules, TORCH) is None


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "vgg19_bn", "googlenet_torchvision", "inception_v3_torchvision"])
def test_every_parameter_has_one_name_and_comes_back_from_it(name):
    model = models.build(name)
    naming = next(naming for naming in namings_for(model) if naming.name == "torchvision")
    rules = naming.rules_for(model)
    names = [source_name(path, rules, TORCH) for path in abstract_shapes(model)]
    assert None not in names
    assert len(set(names)) == len(names)


def test_rules_are_short():
    naming = next(naming for naming in namings_for(models.build("resnet152")) if naming.name == "torchvision")
    assert len(naming.rules_for(None)) == 7
