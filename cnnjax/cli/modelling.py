"""From the word MODEL on the command line to a module, and from a workdir back to its trained state."""

import functools
import importlib
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from cnnjax.cli.output import Output
from cnnjax.errors import CnnjaxError, UsageError

if TYPE_CHECKING:
    from flax import linen as nn

    from cnnjax.training import TrainState


PRECISIONS = ("float32", "bfloat16")


def build_model(name: str, num_classes: int, precision: str = "float32") -> "nn.Module":
    """Return the module that MODEL names.

    Args:
      name: A model of `cnnjax.models`, or `package.module:Class` of a linen module of the user's own, which is called
        as `Class(num_classes=...)` if it has such a field and as `Class()` if not.
      num_classes: Classes of the dataset.
      precision: One of `PRECISIONS`: the dtype that layers compute in. A user's class is told by its field `dtype`.
    Raises:
      UsageError: If there is no such model or class, or it knows no other dtype.
    """
    import jax.numpy as jnp

    from cnnjax import models

    dtype = jnp.dtype(precision)
    if ":" not in name:
        return models.build(name, num_classes=num_classes, dtype=dtype)
    cls = _import_class(name)
    fields = cls.__dataclass_fields__
    if precision != "float32" and "dtype" not in fields:
        raise UsageError(f"{name} has no field `dtype`, which --precision {precision} sets. Add it, or leave that out.")
    options: dict[str, Any] = {"num_classes": num_classes} if "num_classes" in fields else {}
    if precision != "float32":
        options["dtype"] = dtype
    try:
        return cls(**options)
    except Exception as error:
        raise UsageError(f"cannot make {name!r}: {error}. Give its fields defaults.") from error


def check_model_name(name: str) -> None:
    """Refuse a MODEL that does not exist, before any work is done.

    Raises:
      UsageError: If there is no such model or class.
    """
    build_model(name, num_classes=10)


def check_output(model: "nn.Module", image_shape: tuple[int, ...], num_classes: int) -> None:
    """Refuse a model that does not map these images to logits, by tracing it; nothing is computed.

    Args:
      model: The module.
      image_shape: `(H, W, C)`.
      num_classes: Classes of the dataset.
    Raises:
      UsageError: If the output's shape is not `(N, num_classes)`, or the model can't take the images.
    """
    import jax
    import jax.numpy as jnp

    name = type(model).__name__
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    try:
        output = jax.eval_shape(functools.partial(_evaluated, model), jax.random.key(0), images)
    except UsageError:
        raise
    except Exception as error:  # the user's own module may raise anything
        raise UsageError(f"{name} can't take images of shape {image_shape}: {error}") from error
    if getattr(output, "shape", None) != (2, num_classes):
        found = getattr(output, "shape", type(output).__name__)
        raise UsageError(f"{name} gives {found} for 2 images, expected logits of shape (2, {num_classes}).")


def check_step(train_step: Any, state: "TrainState", image_shape: tuple[int, ...], batch_size: int) -> None:
    """Refuse a step that can't be taken, by tracing it; nothing is computed.

    Args:
      train_step: The step of the run, augmentation included.
      state: Its state.
      image_shape: `(H, W, C)`.
      batch_size: Examples a step.
    Raises:
      UsageError: If something in it can't take the images.
    """
    import jax
    import jax.numpy as jnp

    from cnnjax.training import Batch

    images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
    numbers, mask = (jax.ShapeDtypeStruct((batch_size,), dtype) for dtype in (jnp.int32, jnp.bool_))
    try:
        jax.eval_shape(train_step, state, Batch(images, numbers, mask, index=numbers, epoch=numbers))
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"a training step can't be taken on images of shape {image_shape}: {error}") from error


def _evaluated(model: "nn.Module", key: Any, images: Any) -> Any:
    import optax

    from cnnjax.training import create_state

    state = create_state(model, optax.identity(), images.shape, key=key)
    return state.apply_fn(state.variables, images, train=False)


def image_size_for(name: str, image_shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the size that images are to be resized to, or None when the model takes them as they are.

    Args:
      name: MODEL.
      image_shape: `(H, W, C)` as stored.
    """
    import jax
    import jax.numpy as jnp

    from cnnjax import models

    if ":" in name:
        return None
    try:
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(build_model(name, 10).init, jax.random.key(0), images)
    except UsageError:  # too small for it
        return models.input_shape(name)[:2]
    return None


def restore(workdir: pathlib.Path, out: Output) -> tuple["TrainState", dict[str, Any], dict[str, Any]]:
    """Return the trained state of a workdir, its configuration and what it says of its data.

    Raises:
      CnnjaxError: If there is no run or no checkpoint, or it can't be read.
    """
    import jax
    import numpy as np
    import optax

    from cnnjax import runs
    from cnnjax.training import create_state

    config, data = runs.read_run(workdir)
    newest = runs.load_newest(workdir / "checkpoints")
    if newest is None:
        raise CnnjaxError(f"no checkpoint in {workdir} yet. Train there first: cnnjax train ... --workdir {workdir}.")
    path, arrays, position, notes = newest
    if not runs.is_final(path):
        notes.append(f"the run is not finished: these are its parameters after step {position['step']}")
    model = build_model(config["model"], len(data["class_names"]), config.get("precision", "float32"))
    shape, key = tuple(data["input_shape"]), jax.random.key(0)
    # Shapes are enough: every value comes from the checkpoint, and compiling an initialisation takes seconds.
    state = jax.eval_shape(lambda key: create_state(model, optax.identity(), shape, key=key), key)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state.replace(key=None)).replace(key=key)
    for note in notes:
        out.say(f"warning: {note}")
    return runs.restore_variables(state, _averaged(arrays)), config, data


def _averaged(arrays: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's arrays with its moving averages, if it has any, in place of what they average."""
    return arrays | {name.removeprefix("ema/"): value for name, value in arrays.items() if name.startswith("ema/")}


def _import_class(name: str) -> Any:
    from flax import linen as nn

    module_name, _, class_name = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a module beside the user, as `python -m` would find it
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (Exception, SystemExit) as error:  # the user's file may do anything while it is read
        raise UsageError(f"cannot import model {name!r}: {error}. Expected package.module:Class.") from error
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise UsageError(f"{name!r} is no Flax linen module class.")
    return cls
