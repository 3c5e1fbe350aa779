"""One way to name the tensors of Keras's three file formats: `LAYER/VARIABLE`, nested models as folders before it.

A layer goes by its own name where somebody gave it one. Keras numbers all others over the whole life of a process, so
that `conv2d_7` says nothing; they are numbered anew, in the order of the file: `conv2d`, `conv2d_1`, ... Keras itself
reads them back by that order.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cnnjax.pretrained.readers import Tensor, WeightsError

if TYPE_CHECKING:
    from cnnjax.pretrained.readers.hdf5 import Dataset

# What Keras calls layers that nobody named: their classes' names in snake case.
_STEMS = (
    "batch_normalization",
    "conv1d",
    "conv2d",
    "conv2d_transpose",
    "conv3d",
    "dense",
    "depthwise_conv2d",
    "group_normalization",
    "layer_normalization",
    "normalization",
    "p_re_lu",
    "separable_conv2d",
)
_AUTOMATIC = re.compile(rf"({'|'.join(_STEMS)})(_\d+)?")
# Whose numbered variables their shapes alone don't tell.
_VARIABLES = {"layer_normalization": ("gamma", "beta"), "normalization": ("mean", "variance", "count")}


class Variable(NamedTuple):
    """A tensor of a file and where it belongs.

    Args:
      folders: The nested models that hold the layer, outermost first.
      layer: The layer's name, as in the file.
      name: The variable's, such as `kernel`.
      values: Where its values are.
      facts: What the configuration says of the layer.
    """

    folders: tuple[str, ...]
    layer: str
    name: str
    values: "Dataset"
    facts: dict[str, Any] = {}  # noqa: RUF012  never changed


def is_automatic(layer: str) -> bool:
    """Return whether a layer's name is one that Keras makes up.

    Example:
      >>> is_automatic("conv2d_188"), is_automatic("conv2_block1_1_conv")
      (True, False)
    """
    return _AUTOMATIC.fullmatch(layer) is not None


def snake_case(name: str) -> str:
    """Return the name of a class as Keras writes it in names of layers and groups.

    Example:
      >>> snake_case("BatchNormalization"), snake_case("Conv2D")
      ('batch_normalization', 'conv2d')
    """
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def counted(stem: str, used: dict[str, int]) -> str:
    """Return a name with Keras's counter behind it, and count it.

    Args:
      stem: The name without.
      used: How often each stem was seen; changed.
    """
    used[stem] = used.get(stem, -1) + 1
    return f"{stem}_{used[stem]}" if used[stem] else stem


def by_number(names: Iterable[str]) -> list[str]:
    """Return names in the order of their counters, `conv2d_2` before `conv2d_10`.

    Example:
      >>> by_number(["dense_10", "dense_2", "dense"])
      ['dense', 'dense_2', 'dense_10']
    """

    def key(name: str) -> tuple[str, int]:
        stem, _, number = name.rpartition("_")
        plain = number.isascii() and number.isdigit() and len(number) < 10
        return (stem, int(number)) if plain else (name, -1)

    return sorted(names, key=key)


def refuse_gaps(names: Iterable[str]) -> None:
    """Raise a WeightsError if Keras's counters among some names do not run 0, 1, 2, ... for each class.

    Layers are known by their place in the count, so that a missing one would shift those behind it.

    Args:
      names: All names in one group; the others do not matter.
    """
    automatic = [found for found in map(_AUTOMATIC.fullmatch, names) if found]
    used: dict[str, int] = {}
    expected = {counted(found[1], used) for found in automatic}
    if wrong := expected - {found[0] for found in automatic}:
        raise WeightsError(f"the group {min(wrong)!r} is not there, but ones with a higher number are.")


def variable_names(
    shapes: Sequence[tuple[int, ...]], *, center: bool = True, scale: bool | None = None, kind: str = ""
) -> list[str]:
    """Return what a layer's numbered variables are.

    Args:
      shapes: Theirs, in order.
      kind: The layer's class in snake case, if it is known.
      center: Of a normalisation: whether it has a beta.
      scale: Whether it has a gamma; None if that is not known, then four variables have one and three do not.
    Example:
      >>> variable_names([(3, 3, 8, 16), (16,)]), variable_names([(16,)] * 3)
      (['kernel', 'bias'], ['beta', 'moving_mean', 'moving_variance'])
    """
    if len(_VARIABLES.get(kind, ())) == len(shapes) > 0:
        return list(_VARIABLES[kind])
    if len(shapes) > 1 and set(map(len, shapes)) == {1} and len(set(shapes)) == 1:
        scale = len(shapes) >= 4 if scale is None else scale
        names = ["gamma"] * scale + ["beta"] * center + ["moving_mean", "moving_variance"]
        if len(names) == len(shapes):
            return names
    elif shapes and len(shapes) <= 2 and len(shapes[0]) > 1 and all(len(shape) == 1 for shape in shapes[1:]):
        return ["kernel", "bias"][: len(shapes)]
    return [str(number) for number in range(len(shapes))]


def named(variables: Sequence[Variable]) -> list[Tensor]:
    """Return the tensors of a file by `LAYER/VARIABLE`, in its order.

    Args:
      variables: All of them, in the order of the file.
    Raises:
      WeightsError: If two have the same name.
    """
    common = _common([variable.folders for variable in variables])
    used: dict[tuple[str, ...], dict[str, int]] = {}
    names: dict[tuple[tuple[str, ...], str], str] = {}
    found: dict[str, Tensor] = {}
    for variable in variables:
        place = (variable.folders, variable.layer)
        automatic = _AUTOMATIC.fullmatch(variable.layer)
        if automatic and place not in names:
            names[place] = counted(automatic[1], used.setdefault(variable.folders, {}))
        layer = names.get(place, variable.layer)
        name = "/".join((*variable.folders[common:], layer, variable.name))
        if name in found:
            raise WeightsError(f"two tensors are named {name!r}.")
        found[name] = variable.values.tensor(name)
    return list(found.values())


def _common(folders: Sequence[tuple[str, ...]]) -> int:
    """Return how many outer folders all have in common; nothing is told apart by them."""
    first = folders[0] if folders else ()
    shared = 0
    while shared < len(first) and all(other[: shared + 1] == first[: shared + 1] for other in folders):
        shared += 1
    return shared
