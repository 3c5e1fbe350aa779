"""From a word that names a model, on the command line or in a run's record, to a module."""

import ast
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnnjax.errors import UsageError, unknown

if TYPE_CHECKING:
    from flax import linen as nn

PRECISIONS = ("float32", "bfloat16")
# What linen's own machinery and other options set.
_NOT_OPTIONS = ("parent", "name", "num_classes", "dtype")
_WORDS = {"true": True, "false": False, "none": None}


def build_model(name: str, num_classes: int, *, precision: str = "float32", options: Sequence[str] = ()) -> "nn.Module":
    """Return the module that a word names.

    Args:
      name: A model of `cnnjax.models`, the name of an official file such as `resnet50:v2`, which stands for its model,
        or `package.module:Name` of a linen module's class, or of a function that returns a module; `num_classes` is
        given to what takes it.
      num_classes: Classes of the dataset.
      precision: One of `PRECISIONS`: the dtype that layers compute in. A user's own model is told by `dtype`.
      options: `FIELD=VALUE` each, typed by the model's fields or the function's parameters.
    Raises:
      UsageError: If there is no such model, or it does not take an option.
    """
    import jax.numpy as jnp
    from flax import linen as nn

    from cnnjax import models

    dtype = jnp.dtype(precision)
    base = model_name(name)
    if ":" not in base:
        fields = _fields(type(models.build(base)))
        return models.build(base, num_classes=num_classes, dtype=dtype, **_typed(base, options, fields))
    make = _import(name)
    fields = _fields(make)
    given: dict[str, Any] = {"num_classes": num_classes} if "num_classes" in fields else {}
    if precision != "float32":
        if "dtype" not in fields:
            raise UsageError(
                f"{name} has no field `dtype`, which --precision {precision} sets. Add it, or leave that out."
            )
        given["dtype"] = dtype
    given |= _typed(name, options, fields)
    try:
        model = make(**given)
    except Exception as error:
        raise UsageError(
            f"cannot make {name!r}: {error}. Give what it takes defaults, or --set FIELD=VALUE."
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name!r} returns {type(model).__name__}, expected a Flax linen module.")
    return model


def model_name(name: str) -> str:
    """Return MODEL for the name of an official file, such as `resnet50` for `resnet50:v2`; any other name as it is.

    Raises:
      UsageError: If a model's name is followed by a variant that it does not have.
    """
    base, colon, _ = name.partition(":")
    if not colon:
        return name
    from cnnjax import models
    from cnnjax.pretrained.catalogue import published_names

    if name in published_names():
        return base
    if base == "hf":
        raise UsageError(
            f"{name}: cnnjax does not fetch from Hugging Face. Run `hf download {name[3:]} --local-dir DIR` and give "
            "MODEL --weights DIR."
        )
    if base in models.available():
        raise unknown("variant", name, [known for known in published_names() if known.startswith(f"{base}:")])
    return name


def shaped(
    name: str, input_shape: Sequence[int] | None, num_classes: int | None = None, options: Sequence[str] = ()
) -> "tuple[nn.Module, tuple[int, int, int]]":
    """Return the module that a word names and the shape of its images, tried together.

    Args:
      name: See `build_model`.
      input_shape: `(H, W, C)`; None for what the net was made for.
      num_classes: Width of the logits; None for as published.
      options: See `build_model`.
    Raises:
      UsageError: If a number is below 1, the shape is not known, or the model can't take it.
    """
    from cnnjax import models

    if num_classes is not None and num_classes < 1:
        raise UsageError(f"--num-classes: expected at least 1, got {num_classes}.")
    if input_shape is not None and min(input_shape) < 1:
        raise UsageError(f"--input-shape: expected three positive numbers, got {input_shape}.")
    base = model_name(name)
    classes = num_classes or (10 if ":" in base else models.num_classes(base))
    model = build_model(name, classes, options=options)
    known = input_shape or getattr(model, "input_shape", None)
    if known is None:
        raise UsageError(f"--input-shape: expected H W C for {name}, which has no published shape.")
    height, width, channels = known
    check_output(model, (height, width, channels), classes)
    return model, (height, width, channels)


def input_shape(name: str) -> tuple[int, int, int] | None:
    """Return the shape `(H, W, C)` of the images that a model was made for; None if it does not say."""
    from cnnjax import models

    base = model_name(name)
    if ":" not in base:
        return models.input_shape(base)
    return getattr(build_model(name, 10), "input_shape", None)


def check_output(model: "nn.Module", image_shape: Sequence[int], num_classes: int) -> None:
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
    import optax

    from cnnjax.training import create_state

    def evaluated(key: Any, images: Any) -> Any:
        state = create_state(model, optax.identity(), images.shape, key=key)
        return state.apply_fn(state.variables, images, train=False)

    name, images = type(model).__name__, jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    try:
        output = jax.eval_shape(evaluated, jax.random.key(0), images)
    except UsageError:
        raise
    except Exception as error:  # the user's own module may raise anything
        raise UsageError(f"{name} can't take images of shape {tuple(image_shape)}: {error}") from error
    if getattr(output, "shape", None) != (2, num_classes):
        found = getattr(output, "shape", type(output).__name__)
        raise UsageError(f"{name} gives {found} for 2 images, expected logits of shape (2, {num_classes}).")


def _import(name: str) -> Callable[..., Any]:
    """Return the class or function `package.module:Name`."""
    from flax import linen as nn

    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a module beside the user, as `python -m` would find it
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as error:  # the user's file may do anything while it is read
        raise UsageError(f"cannot import model {name!r}: {error}. Expected package.module:Class.") from error
    if not callable(found) or (isinstance(found, type) and not issubclass(found, nn.Module)):
        raise UsageError(f"{name!r} is not a Flax linen module's class, nor a function that returns a module.")
    return found


def _fields(make: Callable[..., Any]) -> dict[str, Any]:
    """Return what a class or function takes by keyword, with the types."""
    names = [
        parameter.name
        for parameter in inspect.signature(make).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    try:
        hints = typing.get_type_hints(make)
    except Exception:  # a type that can't be named where the module ends
        hints = {}
    return {name: hints.get(name, Any) for name in names}


def _typed(model: str, options: Sequence[str], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `FIELD=VALUE` options."""
    known = {name: hint for name, hint in fields.items() if name not in _NOT_OPTIONS}
    values: dict[str, Any] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            raise UsageError(f"--set: expected FIELD=VALUE, such as dropout=0, got {option!r}.")
        if name not in known:
            raise unknown(f"option of {model}", name, known)
        try:
            values[name] = _as_type(text, _literal(text), known[name])
        except ValueError:
            wanted = getattr(known[name], "__name__", str(known[name]))
            wanted = str(known[name]) if typing.get_args(known[name]) else wanted
            raise UsageError(f"--set {name}: expected {wanted} for {model}, got {text!r}.") from None
    return values


def _literal(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _as_type(text: Any, value: Any, hint: Any) -> Any:
    """Return a value as a field's type has it, or raise ValueError."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        for choice in sorted(inner, key=lambda choice: choice is str):  # whatever the text is, it is a str
            try:
                return _as_type(text, value, choice)
            except ValueError:
                continue
    elif origin is typing.Literal and (value in inner or text in inner):
        return value if value in inner else text
    elif hint in (None, type(None)) and value is None:
        return None
    elif hint is str:
        return text
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif hint in (bool, int) and type(value) is hint:
        return value
    elif tuple in (hint, origin) or origin is Sequence:
        items = tuple(value) if isinstance(value, tuple | list) else (value,)
        kinds = [inner[0]] * len(items) if inner[1:] in ((), (...,)) and inner else list(inner) or [Any] * len(items)
        if len(kinds) == len(items):
            return tuple(_as_type(item, item, kind) for item, kind in zip(items, kinds))
    raise ValueError(text)
