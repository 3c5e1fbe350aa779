"""What people hand to a state, a step and a loop, looked at before JAX sees it: each mistake is one sentence."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnnjax.batch import Batch
from cnnjax.errors import UsageError
from cnnjax.errors import channels_first as channels_first_hint
from cnnjax.training.losses import class_numbers, label_fault


def as_batch(batch: Any) -> Batch:
    """Take a `Batch`, or a mapping with its fields, as tfds and Grain yield them; labels become int32."""
    fields = {"image", "label"}
    if not fields <= (batch.keys() if isinstance(batch, Mapping) else set(dir(batch))):
        got = f"keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
        raise TypeError(
            f"train_step: expected a cnnjax.data.Batch or a mapping with 'image' and 'label', got {got}. "
            'Write {"image": images, "label": labels}.'
        )
    if isinstance(batch, Mapping):
        batch = Batch(image=batch["image"], label=batch["label"], mask=batch.get("mask"))
    for name in ("image", "label", "mask"):
        _check_array(name, getattr(batch, name))
    if not jnp.issubdtype(batch.image.dtype, jnp.floating):
        raise TypeError(
            f"train_step: expected float images, got {batch.image.dtype}. Scale them first, for example with "
            "cnnjax.data.batches, or images / 255."
        )
    if batch.image.ndim != 4:
        shape = tuple(batch.image.shape)
        fix = " Add a channel axis: images[..., None]." if len(shape) == 3 else ""
        raise ValueError(f"train_step: expected images [N, H, W, C], got shape {shape}.{fix}")
    return batch


# What libraries call the two: ours and TFDS's, Hugging Face's.
_IMAGES, _LABELS = ("image", "images", "img", "pixel_values"), ("label", "labels")
_PAIR = 2


def from_loader(batch: Any, *, channels_first: bool = False) -> Any:
    """Return what a loader of any library gave as a batch of NumPy's or JAX's arrays, `[N, H, W, C]`.

    Args:
      batch: A `Batch`, a mapping with images and labels, or a pair of both: arrays, tensors of PyTorch or TensorFlow,
        lists.
      channels_first: Whether its images are `[N, C, H, W]`.
    Raises:
      UsageError: If it is one example alone, or tensors of PyTorch that look like channels first. Of what else is no
        batch the step says so.
    """
    mask = None
    if isinstance(batch, Mapping):
        names = [next((name for name in known if name in batch), None) for known in (_IMAGES, _LABELS)]
        if None in names:
            return batch  # the step says what it lacks
        image, label, mask = *(batch[name] for name in names), batch.get("mask")
    elif isinstance(batch, tuple | list) and len(batch) == _PAIR:
        image, label = batch
    elif isinstance(batch, Batch) and channels_first:
        return batch.replace(image=jnp.moveaxis(batch.image, 1, -1))
    else:
        return batch
    from_torch = type(image).__module__.startswith("torch")
    image, label, mask = _as_array(image), _as_array(label), None if mask is None else _as_array(mask)
    if label.ndim == 0:
        raise UsageError(
            "fit: expected batches, got single examples: an image with one label. Put them together first, as with "
            "DataLoader(data, batch_size=32), grain's .batch(32) or Hugging Face's .iter(batch_size=32)."
        )
    if channels_first:
        image = image.transpose(0, 2, 3, 1)
    elif from_torch and image.ndim == 4 and channels_first_hint(image.shape):
        raise UsageError(
            f"fit: tensors of PyTorch of shape {tuple(image.shape)} look like channels first, [N, C, H, W]. "
            "Write channels_first=True, and they are transposed."
        )
    return {"image": image, "label": label} | ({} if mask is None else {"mask": mask})


def _as_array(value: Any) -> Any:
    if isinstance(value, np.ndarray | jax.Array):
        return value
    if hasattr(value, "detach"):  # a tensor of PyTorch, which may lie on an accelerator
        value = value.detach().cpu()
    elif isinstance(value, list | tuple) and value and hasattr(value[0], "__array__") | hasattr(value[0], "detach"):
        return np.stack([np.asarray(_as_array(one)) for one in value])
    return np.asarray(value)


def as_int32(batch: Batch) -> Batch:
    """Return the batch with its labels as int32, of whatever integer type they are."""
    mixed = None if batch.mixed_label is None else class_numbers(batch.mixed_label)
    return batch.replace(label=class_numbers(batch.label), mixed_label=mixed)


def labels_of(batch: Any) -> tuple[Any, Any, Any]:
    """Return what `explain_labels` needs of a batch: its images' shape, labels and mask, each None where unknown."""
    fields = batch if isinstance(batch, Mapping) else getattr(batch, "__dict__", {})
    return getattr(fields.get("image"), "shape", None), fields.get("label"), fields.get("mask")


def explain_labels(state: Any, shape: Any, labels: Any, mask: Any) -> str | None:
    """Return what is wrong with the labels of a batch whose loss is not finite, else None; waits for them."""
    if shape is None or not hasattr(labels, "dtype") or not getattr(labels, "is_fully_addressable", True):
        return None
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    logits = jax.eval_shape(lambda s, x: s.apply_fn(s.variables, x, train=False), state, images)
    return label_fault(labels, logits.shape[-1], mask)


def check_model(model: Any) -> None:
    """Refuse what is not an instance of a linen module."""
    if isinstance(model, nn.Module):
        return
    if isinstance(model, type):
        got, fix = f"the class {model.__name__}", f"Make one: {model.__name__}(...)."
    elif isinstance(model, str):
        got, fix = repr(model), f"Build it: cnnjax.models.build({model!r}, num_classes=...)."
    else:
        got, fix = _kind(model), "Write the net as a flax.linen.Module, or take one of cnnjax.models.available()."
    raise UsageError(f"create_state: expected a Flax linen module, got {got}. {fix}")


def check_optimizer(tx: Any) -> None:
    """Refuse what is not an optax transformation."""
    if callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None)) and not isinstance(tx, type):
        return
    if isinstance(tx, str):
        got, fix = repr(tx), f"Write cnnjax.training.make_optimizer({tx!r}, 1e-3), or the like of optax.adam(1e-3)."
    elif callable(tx) and hasattr(tx, "__name__"):
        got, fix = f"the function {tx.__name__}", f"Call it: {tx.__name__}(1e-3)."
    else:
        got, fix = _kind(tx), "Write, for example, optax.adam(1e-3)."
    raise UsageError(f"create_state: expected an optax transformation, got {got}. {fix}")


def check_input_shape(shape: Any, *, used: bool) -> None:
    """Refuse what is not `(H, W, C)` or `(N, H, W, C)`; where it is used to make parameters, channels first too."""
    if hasattr(shape, "shape"):
        raise UsageError(f"create_state: expected input_shape (H, W, C), got {_kind(shape)}. Write images.shape[1:].")
    if not isinstance(shape, Iterable) or len(shape := tuple(shape)) not in (3, 4):
        raise ValueError(f"create_state: expected input_shape (H, W, C) or (N, H, W, C), got {shape}.")
    channels, height, width = shape[-3:]
    if used and channels != 4 and channels_first_hint((1, *shape[-3:])):
        raise UsageError(
            f"create_state: expected input_shape (H, W, C), got {shape}, which looks like channels first. Write "
            f"{(height, width, channels)}, and images.transpose(0, 2, 3, 1) for the batches."
        )


def check_key(key: Any) -> None:
    """Refuse a plain number, which PyTorch and Keras take for a seed."""
    if not hasattr(key, "dtype") or (np.ndim(key) == 0 and not jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise UsageError(f"create_state: expected a PRNG key, got {key!r}. Write key=jax.random.key(0).")


def check_batches(where: str, batches: Any, *, train: bool = False) -> None:
    """Refuse what is not many batches: one batch, an array, a split of a dataset, a name."""
    fix, write = "", _TRAIN if train else _WHOLE
    if isinstance(batches, Mapping | Batch):
        got, fix = "one batch", "Put it into a list: [batch]."
    elif hasattr(batches, "ndim") or isinstance(batches, str):
        got, fix = _kind(batches), 'Write [{"image": images, "label": labels}], one mapping a batch.'
    elif hasattr(batches, "train") and hasattr(batches, "test"):
        got, fix = _kind(batches), f"Take its split: {write.format('dataset.train' if train else 'dataset.test')}."
    elif hasattr(batches, "image_shape") or not (callable(batches) or hasattr(batches, "__iter__")):
        got, fix = _kind(batches), f"Write {write.format('split')}, or a list of batches."
    if fix:
        raise UsageError(f"{where}: expected an iterable of batches, or a function of the epoch, got {got}. {fix}")


_TRAIN = "lambda epoch=0: cnnjax.data.batches({}, 128, key=key, epoch=epoch, train=True)"
# Each image once: what is left over of an epoch in training belongs to the next.
_WHOLE = "lambda: cnnjax.data.batches({}, 128)"


def check_state(where: str, state: Any) -> None:
    """Refuse what is not a state, and a state whose memory a step has been given."""
    if not hasattr(state, "apply_fn") or not hasattr(state, "params"):
        raise UsageError(
            f"{where}: expected a TrainState, got {_kind(state)}. "
            "Write create_state(model, tx, input_shape, key=jax.random.key(0))."
        )
    if is_donated(state):
        raise UsageError(f"{where}: this state was donated; use the one that {where} returned.")


def is_donated(state: Any) -> bool:
    """Return whether the memory of any of a state's arrays was given to a step's result."""
    return any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves(state))


def _check_array(name: str, value: Any) -> None:
    if value is None or isinstance(value, np.ndarray | jax.Array) or type(value).__module__.startswith("jax"):
        return
    kind = _kind(value)
    if kind.startswith("torch"):
        fix = f"batch[{name!r}]." + ("permute(0, 2, 3, 1).numpy()" if name == "image" else "numpy()")
    else:
        fix = f"np.asarray(batch[{name!r}])"
    raise TypeError(f"train_step: expected {name!r} to be an array of NumPy or JAX, got {kind}. Write {fix}.")


def _kind(value: Any) -> str:
    name, room = type(value).__qualname__, type(value).__module__.split(".")[0]
    if room in ("numpy", "jax", "jaxlib") and hasattr(value, "shape"):
        return f"an array of shape {tuple(value.shape)}"
    return name if room in ("builtins", "cnnjax", "__main__") else f"{room}.{name}"
