"""`load`: every tensor once, every parameter once, or one line that says what does not fit."""

import hashlib
import json
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import serialization, traverse_util
from flax.training import train_state

from cnnjax import models
from cnnjax.errors import UsageError
from cnnjax.models.vgg import VGG
from cnnjax.pretrained import Rule, WeightsError, load, save
from tests.optional import torch
from tests.pretrained.nets import Net, randomised

RULES = [("0", "conv"), ("1", "norm"), Rule("3", "hidden", flatten=(4, 6)), ("5", "logits")]


def torch_net(classes=3):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 5, 3, padding=1),
        torch.nn.BatchNorm2d(5),
        torch.nn.Flatten(),
        torch.nn.Linear(5 * 4 * 6, 7),
        torch.nn.ReLU(),
        torch.nn.Linear(7, classes),
    )
    net.train()
    net(torch.randn(8, 2, 4, 6))
    return net.eval()


def logits_of(net, x):
    return net(torch.tensor(x.transpose(0, 3, 1, 2))).detach().numpy()


X = np.random.default_rng(0).standard_normal((2, 4, 6, 2)).astype(np.float32)


def test_a_net_of_ones_own_gives_torchs_results(tmp_path):
    net = torch_net()
    torch.save(net.state_dict(), tmp_path / "a.pth")
    variables, report = load(Net(), tmp_path / "a.pth", rules=RULES)
    np.testing.assert_allclose(Net().apply(variables, X), logits_of(net, X), rtol=1e-4, atol=1e-5)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    entries = {entry.source: entry for entry in report.entries}
    assert entries.keys() == net.state_dict().keys()
    assert entries["3.weight"].transform == "O(C4x6) -> (4x6C)O"
    assert (entries["3.weight"].source_shape, entries["3.weight"].shape) == ((7, 120), (120, 7))
    assert entries["0.weight"].transform == "OIHW -> HWIO"
    assert entries["5.weight"].transform == "OI -> IO"
    assert entries["1.running_var"].destination == "batch_stats/norm/var"
    assert entries["1.num_batches_tracked"].action == "dropped"
    assert entries["1.num_batches_tracked"].reason.startswith("num_batches_tracked: a counter")
    assert json.loads(json.dumps(report.as_dict()))["naming"] == "your rules"
    assert "3.weight" in str(report)
    assert "1 dropped: num_batches_tracked: a counter" in str(report)


@pytest.mark.parametrize("key", [None, "state_dict"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_no_part_of_the_names(prefix, key, tmp_path):
    state = {prefix + name: value for name, value in torch_net().state_dict().items()}
    torch.save({key: state} if key else state, tmp_path / "a.pth")
    variables, report = load(Net(), tmp_path / "a.pth", rules=RULES)
    np.testing.assert_allclose(Net().apply(variables, X), logits_of(torch_net(), X), rtol=1e-4, atol=1e-5)
    assert report.entries[0].source == f"{prefix}0.weight"


def test_tensors_beside_the_state_are_in_the_report(tmp_path):
    state = torch_net().state_dict()
    torch.save({"model": state, "ema": torch_net().state_dict(), "extra.w": torch.ones(2)}, tmp_path / "a.pth")
    _, report = load(Net(), tmp_path / "a.pth", rules=RULES)
    dropped = {e.source: e.reason for e in report.entries if e.action == "dropped" and "num_batches" not in e.source}
    assert dropped == {
        "extra.w": "not in the state: under 'extra.w', beside the state under 'model'",
        **{
            f"ema.{name}": "not in the state: under 'ema', beside the state under 'model'"
            for name in state
            if "num_batches" not in name
        },
    }
    assert len({entry.source for entry in report.entries}) == len(report.entries) == 2 * len(state) + 1
    assert f"{len(state)} dropped: not in the state: under 'ema', beside" in str(report)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_floats_become_float32(dtype, tmp_path):
    state = {name: value.to(getattr(torch, dtype)) for name, value in torch_net().state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    variables, report = load(Net(), tmp_path / "a.pth", rules=RULES)
    np.testing.assert_array_equal(variables["params"]["logits"]["kernel"], state["5.weight"].float().numpy().T)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert report.entries[0].dtype == dtype
    state["0.bias"] = torch.full((5,), 1e300, dtype=torch.float64)
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=r"0\.bias has numbers that float32 can't hold"):
        load(Net(), tmp_path / "b.pth", rules=RULES)


def changed(tmp_path, change):
    state = dict(torch_net().state_dict())
    change(state)
    torch.save(state, tmp_path / "a.pth")
    return tmp_path / "a.pth"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda s: s.pop("0.bias"),
            ["1 missing: params/conv/bias [5] (expected 0.bias)"],
        ),
        (
            lambda s: s.__setitem__("fc.weight", s.pop("5.weight")),
            [
                "1 missing: params/logits/kernel [7, 3] (expected 5.weight, nearest fc.weight)",
                "1 left over: fc.weight [3, 7] (nearest 5.weight)",
            ],
        ),
        (
            lambda s: s.__setitem__("0.weight", torch.zeros(5, 2, 5, 5)),
            [
                "1 misshaped: 0.weight [5, 2, 5, 5] float32 would be [5, 5, 2, 5], "
                "expected float params/conv/kernel [3, 3, 2, 5]"
            ],
        ),
        (
            lambda s: s.__setitem__("0.bias", torch.zeros(5, dtype=torch.int64)),
            ["1 misshaped: 0.bias [5] int64"],
        ),
        (
            lambda s: s.__setitem__("3.weight", torch.zeros(7, 119)),
            ["1 misshaped: 3.weight [7, 119]"],
        ),
        (
            lambda s: s.__setitem__("9.weight", torch.zeros(2)),
            ["1 left over: 9.weight [2] (nearest"],
        ),
    ],
)
def test_what_does_not_fit_is_listed(change, parts, tmp_path):
    path = changed(tmp_path, change)
    with pytest.raises(WeightsError) as error:
        load(Net(), path, rules=RULES)
    line = str(error.value)
    assert line.startswith(f"{path}: it does not fit Net by the names of your rules: ")
    assert "\n" not in line
    for part in parts:
        assert part in line


def test_two_tensors_for_one_parameter_are_refused(tmp_path):
    path = changed(tmp_path, lambda s: s.__setitem__("6.bias", torch.zeros(3)))
    with pytest.raises(WeightsError, match=r"1 filled twice: params/logits/bias \(by 5.bias and 6.bias\)"):
        load(Net(), path, rules=[*RULES, ("6", "logits")])


def test_a_long_list_is_cut(tmp_path):
    path = changed(tmp_path, lambda s: s.update({f"x{n}.weight": torch.zeros(2) for n in range(200)}))
    with pytest.raises(WeightsError, match=r"200 left over: .* and 196 more") as error:
        load(Net(), path, rules=RULES)
    assert len(str(error.value)) < 1000


def test_the_whole_list_is_in_the_errors_note(tmp_path):
    # Each has another prefix: one that all have in common would be taken off.
    places = dict(zip(torch_net().state_dict(), "abcdefghijklmnopqrst"))
    path = changed(tmp_path, lambda s: [s.__setitem__(f"x\x1b{places[n]}.{n}", s.pop(n)) for n in list(s)])
    with pytest.raises(WeightsError) as error:
        load(Net(), path, rules=RULES)
    (note,) = error.value.__notes__
    lines = note.splitlines()
    arrays = {name: v for name, v in torch_net().state_dict().items() if "num_batches" not in name}
    assert [line for line in lines if line.startswith("left over: ")] == [
        f"left over: x?{places[name]}.{name} {list(value.shape)} (nearest {name})" for name, value in arrays.items()
    ]
    missing = [line for line in lines if line.startswith("missing: ")]
    assert len(missing) == len(arrays) == len(lines) / 2
    nearest = f"x?{places['3.weight']}.3.weight"
    assert f"missing: params/hidden/kernel [120, 7] (expected 3.weight, nearest {nearest})" in missing


def test_another_number_of_classes_leaves_the_head_at_its_initialisation(tmp_path):
    torch.save(torch_net(1000).state_dict(), tmp_path / "a.pth")
    variables, report = load(Net(num_classes=10), tmp_path / "a.pth", rules=RULES)
    init = jax.jit(Net(num_classes=10).init, compiler_options={"xla_backend_optimization_level": 0})
    fresh = init(jax.random.key(0), jnp.zeros((1, 4, 6, 2)))
    for leaf in ("kernel", "bias"):
        np.testing.assert_allclose(variables["params"]["logits"][leaf], fresh["params"]["logits"][leaf], rtol=1e-5)
    np.testing.assert_array_equal(variables["params"]["hidden"]["bias"], torch_net(1000)[3].bias.detach())
    actions = {entry.source or entry.destination: entry for entry in report.entries if entry.action != "loaded"}
    assert actions.keys() - {"1.num_batches_tracked"} == {
        "5.weight",
        "5.bias",
        "params/logits/kernel",
        "params/logits/bias",
    }
    assert actions["5.weight"].reason == "the file has 1000 classes, the model 10: its head is not taken"
    assert actions["params/logits/bias"].reason == "from model.init with jax.random.key(0)"
    assert actions["params/logits/bias"].action == "initialised"


def test_nothing_but_the_head_may_differ(tmp_path):
    state = torch_net(1000).state_dict()
    torch.save(state | {"5.bias": torch.zeros(999)}, tmp_path / "a.pth")
    torch.save(state | {"0.bias": torch.zeros(1000)}, tmp_path / "b.pth")
    torch.save({name: value for name, value in state.items() if name != "0.bias"}, tmp_path / "c.pth")
    torch.save(
        torch_net().state_dict() | {"0.weight": torch.zeros(6, 2, 3, 3), "0.bias": torch.zeros(6)}, tmp_path / "d.pth"
    )
    for name in "abcd":
        with pytest.raises(WeightsError, match="does not fit"):
            load(Net(num_classes=10), tmp_path / f"{name}.pth", rules=RULES)


def test_without_the_top_the_head_is_not_taken(tmp_path):
    torch.save(torch_net(1000).state_dict(), tmp_path / "a.pth")
    variables, report = load(Net(include_top=False), tmp_path / "a.pth", rules=RULES)
    assert set(variables["params"]) == {"conv", "norm"}
    reasons = {entry.source: entry.reason for entry in report.entries if entry.action == "dropped"}
    assert {name for name, reason in reasons.items() if reason == "the model was built with include_top=False"} == {
        "3.weight",
        "3.bias",
        "5.weight",
        "5.bias",
    }
    torch.save(torch_net().state_dict() | {"7.weight": torch.zeros(2)}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=r"1 left over: 7\.weight"):
        load(Net(include_top=False), tmp_path / "b.pth", rules=RULES)


@pytest.mark.parametrize(
    "lacking", ["35", "5"]
)  # the whole top, as in Keras's notop files; the last layer, as in timm's
def test_a_file_without_a_classifier_gets_a_new_head(lacking, tmp_path):
    state = {name: value for name, value in torch_net().state_dict().items() if name[0] not in lacking}
    torch.save(state, tmp_path / "a.pth")
    (one, report), (other, _) = (load(Net(), tmp_path / "a.pth", rules=RULES, key=jax.random.key(n)) for n in (1, 2))
    fresh = {entry.destination for entry in report.entries if entry.action == "initialised"}
    layers = {"3": "hidden", "5": "logits"}
    assert fresh == {f"params/{layers[n]}/{leaf}" for n in lacking for leaf in ("kernel", "bias")}
    assert report.file_classes == 0
    np.testing.assert_array_equal(one["params"]["conv"]["bias"], torch_net()[0].bias.detach())
    want = Net().init(jax.random.key(1), jnp.zeros((1, 4, 6, 2)))["params"]["logits"]["kernel"]
    np.testing.assert_allclose(one["params"]["logits"]["kernel"], want, rtol=1e-5)
    assert not np.array_equal(one["params"]["logits"]["kernel"], other["params"]["logits"]["kernel"])


@pytest.mark.parametrize("lacking", [["3.weight", "3.bias"], ["5.bias"], ["0.bias", "5.weight", "5.bias"]])
def test_nothing_but_a_classifier_may_be_missing(lacking, tmp_path):
    state = {name: value for name, value in torch_net().state_dict().items() if name not in lacking}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=f"{len(lacking)} missing: params/"):
        load(Net(), tmp_path / "a.pth", rules=RULES)
    torch.save({}, tmp_path / "b.pth")
    with pytest.raises(WeightsError):
        load(Net(), tmp_path / "b.pth", rules=RULES)


class Split(nn.Module):
    """Two dense layers that another framework has as one."""

    input_shape = (1, 1, 4)

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(2, name="a")(x) + nn.Dense(3, name="b")(x).sum()


def test_one_tensor_can_become_several(tmp_path):
    both = torch.nn.Linear(4, 5)
    torch.save({"both.weight": both.weight, "both.bias": both.bias}, tmp_path / "a.pth")
    variables, report = load(Split(), tmp_path / "a.pth", rules=[Rule("both", ("a", "b"))])
    np.testing.assert_array_equal(variables["params"]["a"]["kernel"], both.weight[:2].T.detach())
    np.testing.assert_array_equal(variables["params"]["b"]["kernel"], both.weight[2:].T.detach())
    np.testing.assert_array_equal(variables["params"]["b"]["bias"], both.bias[2:].detach())
    assert report.entries[0].transform == "OI -> IO, split in 2"
    assert [entry.destination for entry in report.entries[:2]] == ["params/a/kernel", "params/b/kernel"]
    torch.save({"both.weight": torch.ones(6, 4), "both.bias": both.bias}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=r"both.weight \[6, 4\] float32 would be \[4, 6\], expected float params/a"):
        load(Split(), tmp_path / "b.pth", rules=[Rule("both", ("a", "b"))])


def test_arrays_can_be_named_one_by_one_and_taken_out_by_rule(tmp_path):
    state = dict(torch_net().state_dict())
    state["scale_of_norm"] = state.pop("1.weight")
    state["ema.a"], state["ema.b"] = torch.zeros(1), torch.zeros(2)
    torch.save(state, tmp_path / "a.pth")
    extra = [Rule("scale_of_norm", "params/norm/scale"), Rule("ema.{rest*}", None, reason="an average of no use")]
    variables, report = load(Net(), tmp_path / "a.pth", rules=[*extra, *RULES])
    np.testing.assert_array_equal(variables["params"]["norm"]["scale"], state["scale_of_norm"])
    assert "2 dropped: ema.{rest*}: an average of no use" in str(report)


def test_timms_dense_layers_are_convolutions(tmp_path):
    model = VGG(stage_sizes=(1, 1, 1, 1, 1), hidden=(8, 9), map_size=2, num_classes=3, input_shape=(32, 32, 3))
    variables = randomised(model)
    state = {}
    for n in range(1, 6):
        conv = variables["params"][f"stage{n}_conv1"]["conv"]
        state[f"features.{3 * n - 3}.weight"] = torch.tensor(conv["kernel"]).permute(3, 2, 0, 1)
        state[f"features.{3 * n - 3}.bias"] = torch.tensor(conv["bias"])
    head = variables["params"]["head"]
    state["pre_logits.fc1.weight"] = torch.tensor(head["dense1"]["kernel"]).reshape(2, 2, 512, 8).permute(3, 2, 0, 1)
    state["pre_logits.fc2.weight"] = torch.tensor(head["dense2"]["kernel"]).T[:, :, None, None]
    state["head.fc.weight"] = torch.tensor(head["logits"]["kernel"]).T
    for name, layer in (("pre_logits.fc1", "dense1"), ("pre_logits.fc2", "dense2"), ("head.fc", "logits")):
        state[f"{name}.bias"] = torch.tensor(head[layer]["bias"])
    torch.save(state, tmp_path / "a.pth")
    loaded, report = load(model, tmp_path / "a.pth")
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, variables))
    assert report.naming == "timm"
    assert {e.transform for e in report.entries if "pre_logits" in str(e.source)} == {"OIHW -> (HWI)O", ""}


def test_flaxs_and_our_own_files_are_read_as_they_are(tmp_path):
    variables = randomised(Net())
    save(variables, tmp_path / "a")
    (tmp_path / "b").write_bytes(serialization.to_bytes(variables))
    (tmp_path / "c").write_bytes(
        serialization.to_bytes({**variables, "step": np.int32(3), "opt_state": {"0": np.ones(2)}})
    )
    for name in "abc":
        loaded, report = load(Net(), tmp_path / name)
        assert jax.tree.all(jax.tree.map(np.array_equal, loaded, variables)), name
        assert report.naming == "cnnjax"
    assert sum(entry.action == "dropped" for entry in report.entries) == 2
    (tmp_path / "d").write_bytes(serialization.to_bytes(randomised(Split())["params"]))
    assert load(Split(), tmp_path / "d")[1].naming == "cnnjax (params alone)"


@pytest.mark.parametrize("options", [{}, {"use_ocdbt": False}, {"use_zarr3": True}], ids=str)
def test_a_training_state_that_orbax_saved_is_read(options, tmp_path):
    import orbax.checkpoint

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    variables = randomised(Net())

    class State(train_state.TrainState):
        batch_stats: Any

    state = State.create(
        apply_fn=Net().apply, params=variables["params"], tx=optax.adam(0.1), batch_stats=variables["batch_stats"]
    )
    state = jax.tree.map(np.asarray, state)
    with orbax.checkpoint.PyTreeCheckpointer(**options) as checkpointer:
        checkpointer.save(tmp_path / "state", state)
    loaded, report = load(Net(), tmp_path / "state")
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, variables))
    assert (report.format, report.naming) == ("orbax", "cnnjax")
    (tmp_path / "state.msgpack").write_bytes(serialization.to_bytes(state))
    loaded, report = load(Net(), tmp_path / "state.msgpack")
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, variables))
    dropped = {entry.source.split("/")[0] for entry in report.entries if entry.action == "dropped"}
    assert dropped >= {"opt_state"}


def test_a_runs_own_checkpoint_is_read(tmp_path):
    from cnnjax.runs.storage import save as save_checkpoint

    variables = randomised(Net())
    flat = traverse_util.flatten_dict(variables, sep="/")
    save_checkpoint(tmp_path / "step-1", flat | {"step": np.int32(1), "opt_state/0/mu": np.ones(3)}, {})
    loaded, _ = load(Net(), tmp_path / "step-1")
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, variables))


def test_what_was_loaded_survives_a_donating_step(tmp_path):
    save(randomised(Net()), tmp_path / "a")
    first, _ = load(Net(), tmp_path / "a")
    before = jax.tree.map(np.array, first)
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    step(first)
    again, _ = load(Net(), tmp_path / "a")
    assert jax.tree.all(jax.tree.map(np.array_equal, again, before))


def test_a_pinned_hash_is_compared_first(tmp_path):
    save(randomised(Net()), tmp_path / "a")
    digest = hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()
    load(Net(), tmp_path / "a", sha256=digest)
    with pytest.raises(WeightsError, match="It is damaged or another file"):
        load(Net(), tmp_path / "a", sha256="0" * 64)
    content = bytearray((tmp_path / "a").read_bytes())
    content[-3] ^= 1  # in the values of the last tensor, where nothing else would notice
    (tmp_path / "a").write_bytes(content)
    load(Net(), tmp_path / "a")
    with pytest.raises(WeightsError, match="It is damaged or another file"):
        load(Net(), tmp_path / "a", sha256=digest[:8])


def test_wrong_usage_is_said(tmp_path):
    torch.save(torch_net().state_dict(), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"no rules for Net in torch files\. Give it rules="):
        load(Net(), tmp_path / "a.pth")
    with pytest.raises(UsageError, match="unknown source 'torchvison': did you mean 'torchvision'"):
        load(models.build("resnet20"), tmp_path / "a.pth", source="torchvison")
    with pytest.raises(UsageError, match="it is a torch file, expected one with cnnjax's names"):
        load(Net(), tmp_path / "a.pth", source="cnnjax")
    with pytest.raises(UsageError, match=r"its source has no \{k\}"):
        Rule("layer{i}", "stage{k}")
    with pytest.raises(UsageError, match="expected a model with an input_shape"):
        load(nn.Dense(3), tmp_path / "a.pth")


@pytest.mark.parametrize("prefix", ["net.", "model.encoder.", "module.model."])
def test_a_prefix_of_any_name_is_taken_off_and_said(prefix, tmp_path):
    state = {prefix + name: value for name, value in torch_net().state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    variables, report = load(Net(), tmp_path / "a.pth", rules=RULES)
    np.testing.assert_allclose(Net().apply(variables, X), logits_of(torch_net(), X), rtol=1e-4, atol=1e-5)
    assert report.notes == (f"{prefix!r} before the names was taken off.",)
    torch.save({"head.weight": torch.ones(3)} | state, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=r"1 left over: head.weight"):
        load(Net(), tmp_path / "b.pth", rules=RULES)
    variables, report = load(Net(), tmp_path / "b.pth", rules=RULES, prefix=prefix)
    np.testing.assert_allclose(Net().apply(variables, X), logits_of(torch_net(), X), rtol=1e-4, atol=1e-5)
    left = {entry.source: entry.reason for entry in report.entries if entry.action == "dropped"}
    assert left["head.weight"] == f"its name does not begin with {prefix!r}, as asked for"
    with pytest.raises(UsageError, match=r"prefix 'other\.': no name in"):
        load(Net(), tmp_path / "b.pth", rules=RULES, prefix="other.")


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module."])
def test_wrappers_in_the_middle_of_names_are_taken_off(wrapper, tmp_path):
    state = {name.replace(".", f".{wrapper}"): value for name, value in torch_net().state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    variables, report = load(Net(), tmp_path / "a.pth", rules=RULES)
    np.testing.assert_allclose(Net().apply(variables, X), logits_of(torch_net(), X), rtol=1e-4, atol=1e-5)
    assert report.notes == (f"Wrappers inside {len(state)} names were taken off.",)


def test_torchs_own_averages_load(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(torch_net())
    torch.save(averaged.state_dict(), tmp_path / "a.pth")
    variables, report = load(Net(), tmp_path / "a.pth", rules=RULES)
    np.testing.assert_allclose(Net().apply(variables, X), logits_of(torch_net(), X), rtol=1e-4, atol=1e-5)
    assert any(entry.source == "n_averaged" and "AveragedModel" in entry.reason for entry in report.entries)


def test_which_state_is_taken_can_be_said(tmp_path):
    ema = {name: value + 1 for name, value in torch_net().state_dict().items()}
    content = {"state_dict": torch_net().state_dict(), "state_dict_ema": ema, "epoch": 3}
    torch.save(content, tmp_path / "a.pth")
    plain, report = load(Net(), tmp_path / "a.pth", rules=RULES)
    assert "Other states in it: state_dict_ema; which= (--which) takes one." in report.notes
    averaged, _ = load(Net(), tmp_path / "a.pth", rules=RULES, which="state_dict_ema")
    for leaf, other in zip(jax.tree.leaves(plain), jax.tree.leaves(averaged), strict=True):
        np.testing.assert_allclose(other, leaf + 1, rtol=1e-6)
    with pytest.raises(WeightsError, match="no state under 'model_ema'; there is state_dict, state_dict_ema"):
        load(Net(), tmp_path / "a.pth", rules=RULES, which="model_ema")


def test_timms_names_of_resnets_are_torchvisions(tmp_path):
    model = models.build("resnet18", num_classes=5)
    variables = randomised(model)
    save(variables, tmp_path / "a", names="torchvision", model=model)
    loaded, report = load(model, tmp_path / "a", source="timm")
    assert report.naming == "timm"
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, variables))


def test_a_runs_folder_is_read_at_its_newest_checkpoint(tmp_path):
    from cnnjax.runs.storage import save as save_checkpoint

    for step in (9, 10):
        flat = traverse_util.flatten_dict(randomised(Net(), seed=step), sep="/")
        save_checkpoint(tmp_path / "run" / "checkpoints" / f"step-{step}", flat, {})
    loaded, _ = load(Net(), tmp_path / "run")
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, randomised(Net(), seed=10)))


def test_parts_of_safetensors_are_read_as_one(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    variables = randomised(Net())
    flat = traverse_util.flatten_dict(variables, sep="/")
    names = sorted(flat)
    parts = {f"model-{n + 1:05}-of-00002.safetensors": names[n::2] for n in range(2)}
    for file, chosen in parts.items():
        library.save_file({name: flat[name] for name in chosen}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    same = {name: file for file, chosen in parts.items() for name in chosen}
    for path, content in ((tmp_path, None), (tmp_path, same), (index, same)):
        if content:
            index.write_text(json.dumps({"metadata": {}, "weight_map": content}))
        loaded, report = load(Net(), path)
        assert jax.tree.all(jax.tree.map(np.array_equal, loaded, variables))
        assert report.path == path
    for change, message in [
        ({names[0]: "../x"}, "names a file outside its folder, '../x'"),
        ({"other": next(iter(parts))}, "other is not in model-00001-of-00002.safetensors"),
        ({names[0]: "none.safetensors"}, "none.safetensors: No such file"),
    ]:
        index.write_text(json.dumps({"weight_map": same | change}))
        with pytest.raises(WeightsError, match=message):
            load(Net(), index)
    index.write_text("{}")
    with pytest.raises(WeightsError, match="not an index of weights"):
        load(Net(), index)
    index.unlink()
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-00002-of-00002\.safetensors of its 2 parts is missing"):
        load(Net(), tmp_path)
