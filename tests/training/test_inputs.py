"""What people hand in by mistake is one sentence with the fix, and labels are numbers whatever type holds them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import confusion_matrix

from cnnjax import data, models
from cnnjax.data.resident import Split
from cnnjax.errors import UsageError
from cnnjax.training import (
    LabelError,
    classification_metrics,
    create_state,
    eval_step,
    evaluate,
    fit,
    make_eval_step,
    make_train_step,
    softmax_cross_entropy,
    train_step,
)
from tests.models.variants import every_model
from tests.optional import torch
from tests.training.nets import LinearNet, TinyNet, random_batch

KEY, TINY, SGD = jax.random.key(0), TinyNet(dropout=0.0), optax.sgd(0.1)
TYPES = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int64, np.uint64]


def state():
    return create_state(TINY, SGD, (6, 5, 2), key=KEY)


@pytest.mark.parametrize(
    ("dtype", "classes"),
    [
        *((np.uint8, classes) for classes in (17, 256, 300)),
        *((np.int8, classes) for classes in (12, 128, 200)),
        *((dtype, 17) for dtype in (np.int16, np.uint32, np.int64, np.uint64)),
    ],
)
def test_labels_of_any_integer_type_count_as_int32(dtype, classes):
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, min(classes, np.iinfo(dtype).max + 1), 500).astype(dtype)
    logits = rng.normal(size=(500, classes)).astype(np.float32)
    for given in (labels, jnp.asarray(labels)) if dtype().itemsize < 8 else (labels,):
        losses = softmax_cross_entropy(logits, given)
        reference = optax.softmax_cross_entropy_with_integer_labels(logits, labels.astype(np.int32))
        np.testing.assert_allclose(losses, reference, rtol=1e-6)
        found = classification_metrics(logits, given, losses, confusion=True)
        expected = confusion_matrix(labels, logits.argmax(-1), labels=np.arange(classes))
        np.testing.assert_array_equal(found.confusion, expected)
        assert found.top1_count == expected.trace()


@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: t.__name__)
def test_steps_take_labels_of_any_integer_type(dtype):
    batch = random_batch()
    expected, metrics = train_step(state(), batch)
    labels = np.asarray(batch.label).astype(dtype)
    for label in (labels, jnp.asarray(labels)) if labels.itemsize < 8 else (labels,):
        found, other = train_step(state(), {"image": batch.image, "label": label})
        assert float(other.loss_sum) == float(metrics.loss_sum)
        jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


@pytest.mark.parametrize(
    ("dtype", "label", "message"),
    [
        (np.int32, 14, "labels reach 14; the model has 4 classes"),
        (np.uint8, 255, "labels reach 255; the model has 4 classes"),
        (np.int8, -1, "labels go down to -1; the model has 4 classes, counted from 0"),
        (np.int64, 2**40, f"labels reach {2**40}; the model has 4 classes"),  # int32 would keep a 0 of it
        (np.uint64, 2**63, f"labels reach {2**63}; the model has 4 classes"),
        (np.uint32, 2**32 - 1, f"labels reach {2**32 - 1}; the model has 4 classes"),
    ],
)
def test_a_label_that_is_no_class_is_named_and_the_state_lives_on(dtype, label, message):
    first, batch = state(), random_batch()
    labels = np.asarray(batch.label).astype(dtype)
    labels[3] = label
    for step in (train_step, eval_step):
        with pytest.raises(LabelError, match=message):
            step(first, {"image": batch.image, "label": labels})
    with pytest.raises(LabelError, match=message):
        fit(first, [{"image": batch.image, "label": labels}], epochs=1, progress=False)
    masked = {"image": batch.image, "label": labels, "mask": np.arange(8) != 3}
    assert eval_step(first, masked).examples == 7
    assert train_step(first, masked)[1].examples == 7


def test_labels_from_one_are_told_how_classes_are_counted():
    batch = random_batch()
    with pytest.raises(LabelError, match="labels reach 4; the model has 4 classes, counted from 0"):
        train_step(state(), {"image": batch.image, "label": np.arange(8) % 4 + 1})


def test_a_loss_that_takes_any_number_gets_no_label_that_is_no_class():
    """A one-hot row of zeros, for example, is what a squared error makes of such a label."""
    step = make_train_step(loss=lambda logits, labels: ((logits - jax.nn.one_hot(labels, 4)) ** 2).sum(-1))
    batch = random_batch().replace(label=jnp.full(8, 7))
    assert np.isnan(step._plain(state(), batch)[1].loss)
    with pytest.raises(LabelError, match="labels reach 7"):
        step(state(), batch)


def test_steps_of_two_models_know_each_ones_classes():
    step, wide = make_eval_step(), create_state(TinyNet(num_classes=20), SGD, (6, 5, 2), key=KEY)
    batch = random_batch().replace(label=jnp.full(8, 14))
    for _ in range(2):
        assert step(wide, batch).examples == 8
        with pytest.raises(LabelError, match="labels reach 14; the model has 4 classes"):
            step(state(), batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tx": "adam"}, r"got 'adam'\. Write cnnjax\.training\.make_optimizer\('adam', 1e-3\)"),
        ({"tx": optax.adam}, r"got the function adam\. Call it: adam\(1e-3\)\."),
        ({"tx": 0.1}, r"expected an optax transformation, got float\."),
        ({"model": "resnet18"}, r"got 'resnet18'\. Build it: cnnjax\.models\.build\('resnet18'"),
        ({"model": TinyNet}, r"got the class TinyNet\. Make one: TinyNet\(\.\.\.\)\."),
        ({"model": len}, r"expected a Flax linen module, got builtin_function_or_method\."),
        ({"input_shape": np.zeros((8, 6, 5, 2))}, r"got an array of shape \(8, 6, 5, 2\)\. Write images\.shape\[1:\]"),
        ({"input_shape": (3, 32, 32)}, r"looks like channels first\. Write \(32, 32, 3\), and images\.transpose"),
        ({"input_shape": (8, 3, 224, 160)}, r"looks like channels first\. Write \(224, 160, 3\)"),
        ({"input_shape": (1, 28, 28)}, r"looks like channels first\. Write \(28, 28, 1\)"),
        ({"input_shape": 28}, r"expected input_shape \(H, W, C\) or \(N, H, W, C\), got 28"),
        ({"key": 0}, r"expected a PRNG key, got 0\. Write key=jax\.random\.key\(0\)\."),
    ],
)
def test_create_state_says_what_to_write(change, message):
    arguments = {"model": TINY, "tx": SGD, "input_shape": (6, 5, 2), "key": KEY} | change
    with pytest.raises(ValueError, match=message):
        create_state(arguments["model"], arguments["tx"], arguments["input_shape"], key=arguments["key"])


def test_shapes_that_only_look_odd_are_taken():
    for shape in ((1, 64, 12), (3, 4, 4), (32, 32, 1), (4, 4, 512), (28, 28, 3)):
        create_state(LinearNet(), SGD, shape, key=jax.random.PRNGKey(0))


@pytest.mark.parametrize("step", [train_step, eval_step])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": [[[[0.0]]]]}, r"expected 'image' to be an array of NumPy or JAX, got list\. Write np\.asarray\("),
        ({"label": [0, 1]}, r"expected 'label' to be an array of NumPy or JAX, got list\. Write np\.asarray\("),
        ({"image": np.zeros((8, 6, 5), "f")}, r"expected images \[N, H, W, C\], got shape \(8, 6, 5\)\. Add a channel"),
        ({"image": np.zeros((8, 3, 12, 10), "f")}, r"looks like channels first: write images\.transpose\(0, 2, 3, 1\)"),
    ],
)
def test_a_step_says_what_to_write(step, change, message):
    batch = {"image": np.zeros((8, 6, 5, 2), np.float32), "label": np.zeros(8, int)} | change
    first = state()
    with pytest.raises((TypeError, ValueError), match=message):
        step(first, batch)
    assert eval_step(first, random_batch()).examples == 8  # nothing of it is lost


def test_tensors_of_torch_are_told_how_they_become_arrays():
    batch = {"image": torch.zeros(8, 2, 6, 5), "label": torch.zeros(8, dtype=torch.int64)}
    with pytest.raises(TypeError, match=r"got torch\.Tensor\. Write batch\['image'\]\.permute\(0, 2, 3, 1\)\.numpy"):
        train_step(state(), batch)
    batch["image"] = batch["image"].permute(0, 2, 3, 1).numpy()
    with pytest.raises(TypeError, match=r"got torch\.Tensor\. Write batch\['label'\]\.numpy\(\)"):
        train_step(state(), batch)
    batch["label"] = batch["label"].numpy()
    assert train_step(state(), batch)[1].examples == 8


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (random_batch(), r"got one batch\. Put it into a list: \[batch\]"),
        ({"image": 0, "label": 0}, r"got one batch\. Put it into a list"),
        (np.zeros((8, 6, 5, 2)), r"got an array of shape \(8, 6, 5, 2\)\. Write \[\{\"image\": images"),
        ("mnist", r"got str\. Write \[\{\"image\""),
        (3, r"got int\. Write lambda epoch=0: cnnjax\.data\.batches\(split, 128"),
    ],
)
def test_what_is_not_many_batches_is_told_apart(batches, message):
    with pytest.raises(UsageError, match="fit: expected an iterable .* the epoch, " + message):
        fit(state(), batches, epochs=1)
    with pytest.raises(UsageError, match="evaluate: expected an iterable of batches"):
        evaluate(state(), batches)


def test_a_dataset_and_its_splits_are_told_how_to_become_batches():
    images, labels = np.zeros((8, 6, 5, 2), np.uint8), np.zeros(8, np.int32)
    split = Split("train", images, labels, [str(i) for i in range(8)], (0.5, 0.5), (0.3, 0.3))
    dataset = data.Dataset(split, split, split, info=None)
    with pytest.raises(
        UsageError, match=r"got Dataset\. Take its split: lambda epoch=0: cnnjax\.data\.batches\(dataset"
    ):
        fit(state(), dataset, epochs=1)
    with pytest.raises(
        UsageError, match=r"fit: .* got Split\. Write lambda: cnnjax\.data\.batches\(split, 128\), or a list"
    ):
        fit(state(), [random_batch()], dataset.validation, epochs=1)
    with pytest.raises(UsageError, match=r"fit: expected a TrainState, got tests\.TinyNet\. Write create_state\("):
        fit(TINY, [random_batch()], epochs=1)


@pytest.mark.parametrize("name", every_model())
def test_every_model_says_what_to_do_with_images_of_another_kind(name):
    model, (height, width, channels) = models.build(name), models.input_shape(name)
    shapes = jax.eval_shape(model.init, KEY, jnp.zeros((1, height, width, channels)))
    first = jnp.zeros((2, channels, height, width))
    with pytest.raises(UsageError, match=rf"expected images \[N, H, W, C\]\. The shape \(2, {channels}, .*transpose"):
        jax.eval_shape(model.apply, shapes, first)
    with pytest.raises(TypeError, match=r"expected an array of NumPy or JAX, got list\. Write np\.asarray\(x, np"):
        model.apply(shapes, [[[[0.0]]]])


def test_a_tensor_of_torch_is_told_how_a_model_takes_it():
    with pytest.raises(TypeError, match=r"got torch\.Tensor\. Write x\.permute\(0, 2, 3, 1\)\.numpy\(\)\."):
        models.build("lenet5").apply({}, torch.zeros(1, 1, 32, 32))
