"""Keras's files: the legacy `.h5`, which names its layers, `.weights.h5`, which counts them, and `.keras`, which has a
configuration too."""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from cnnjax.pretrained.readers import MAX_DEPTH, MAX_NAME, Content, WeightsError, parse_json
from cnnjax.pretrained.readers.hdf5 import Dataset, Group, read_hdf5
from cnnjax.pretrained.readers.keras_names import (
    Variable,
    by_number,
    counted,
    is_automatic,
    named,
    refuse_gaps,
    snake_case,
    variable_names,
)
from cnnjax.pretrained.readers.zips import CONFIG, WEIGHTS, Archive

_LARGEST_CONFIG = 32 << 20
# What of a layer's configuration changes numbers.
_FACTS = ("data_format", "strides", "dilation_rate", "groups", "padding", "activation", "epsilon", "axis")
_PLAIN_VALUES = (str, int, float, list)
# Groups that hold a container's members and have no name of their own; the second is Keras 2.13's.
_PLAIN = ("layers", "_layer_checkpoint_dependencies")
_TOP_LEVEL = "top_level_model_weights"
# Keras 1 put the layer into the variable's name and called it otherwise: `block1_conv1_W_1:0`.
_KERAS_1 = re.compile(r"(?:.*_)?(W|b|gamma|beta|running_mean|running_std)(?:_\d+)?")
_SINCE_KERAS_2 = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}


class LayerConfig(NamedTuple):
    """What a `.keras` file's configuration says of one layer.

    Args:
      name: The layer's own name.
      center: Of a normalisation: whether it has a beta.
      scale: Whether it has a gamma; None if it is no normalisation.
      facts: What else changes numbers, such as its strides, and its class as `class`.
    """

    name: str
    center: bool = True
    scale: bool | None = None
    facts: dict[str, Any] = {}  # noqa: RUF012  never changed


def read(path: str, which: str = "") -> Content:
    """Return the tensors of a Keras HDF5 file.

    Args:
      path: A legacy `.h5` of a model or its weights, or a `.weights.h5`; its content decides which.
      which: Of no use: it has one state.
    Raises:
      WeightsError: If it is damaged, leads out of itself, or is none of these.
    """
    root = read_hdf5(path)
    for legacy in (root.group("model_weights"), root):
        if legacy is not None and any(re.fullmatch(r"layer_names\d*", name) for name in legacy.texts):
            notes = ["the optimizer's state is not read"] if "optimizer_weights" in root.children else []
            text = "".join(root.texts.get("model_config", []))
            configs = (
                list(dict(_layers(parse_json(text.encode(), "its configuration"), (), 0)).values()) if text else []
            )
            facts = {config.name: config.facts for config in configs}
            variables = [v._replace(facts=facts.get(v.layer, {})) for v in _legacy(legacy)]
            return _content("keras-h5", variables, notes, configs)
    return _counted("keras-weights-h5", root, {})


def read_archive(archive: Archive) -> Content:
    """Return the tensors of a `.keras` archive.

    The configuration is only asked for the names of the layers; no model is made of it.

    Raises:
      WeightsError: If it is damaged or not whole.
    """
    if missing := {WEIGHTS, CONFIG} - archive.members.keys():
        raise WeightsError(f"it is not a whole .keras file: {min(missing)} is not in it.")
    if (size := archive.members[CONFIG].file_size) > _LARGEST_CONFIG:
        raise WeightsError(f"its configuration of {size:,} bytes is larger than any net's.")
    configs = dict(_layers(parse_json(archive.read(CONFIG), "its configuration"), (), 0))
    return _counted("keras", read_hdf5(io.BytesIO(archive.read(WEIGHTS))), configs)


def _layers(config: Any, place: tuple[str, ...], depth: int) -> Iterator[tuple[tuple[str, ...], LayerConfig]]:
    """Yield what the configuration says of each layer, with the path that Keras gives it in the weights."""
    inner = config.get("config") if isinstance(config, dict) else None
    layers = inner.get("layers") if isinstance(inner, dict) else None
    if not isinstance(layers, list):
        return
    if depth > MAX_DEPTH:
        raise WeightsError(f"its configuration nests models more than {MAX_DEPTH} deep.")
    used: dict[str, int] = {}
    for layer in layers:
        kind, own = (layer.get("class_name"), layer.get("config")) if isinstance(layer, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(own, dict) or not isinstance(own.get("name"), str):
            raise WeightsError("its configuration has a layer without a class or a name.")
        if max(len(kind), len(own["name"])) > MAX_NAME:
            raise WeightsError(f"its configuration has a name of more than {MAX_NAME} characters.")
        if ".ops." in str(layer.get("module")):  # an operation between layers, which the weights do not count
            continue
        here = (*place, counted(snake_case(kind), used))
        scale = own.get("scale")
        normalisation = isinstance(scale, bool) and isinstance(own.get("center"), bool)
        facts = {"class": kind, **{name: own[name] for name in _FACTS if isinstance(own.get(name), _PLAIN_VALUES)}}
        gamma = scale if normalisation else None
        yield here, LayerConfig(own["name"], bool(own.get("center", True)), gamma, facts)
        yield from _layers(layer, here, depth + 1)


def _counted(form: str, root: Group, configs: Mapping[tuple[str, ...], LayerConfig]) -> Content:
    """Return the tensors of a file that counts its layers; what is known of those, by their path of counted names."""
    reader = _Counted(configs)
    variables = list(reader.variables(root, (), ()))
    if not variables:
        raise WeightsError("it is HDF5, but not a Keras file with weights (no `layer_names`, no `layers/.../vars`).")
    return _content(form, variables, sorted(reader.notes), configs.values())


def _content(form: str, variables: list[Variable], notes: list[str], configs: Iterable[LayerConfig]) -> Content:
    """Return the tensors, and what the configuration says of each layer by the name that its tensors have here."""
    tensors = named(variables)
    layers = {t.name.rpartition("/")[0]: v.facts for t, v in zip(tensors, variables) if v.facts}
    said = [config.facts for config in configs]
    config = {"layers": layers, "flatten": _order_of_flatten(said), "pads": _has(said, "ZeroPadding2D")} if said else {}
    return Content(form, tensors, tuple(notes), config=config)


def _has(facts: list[dict[str, Any]], kind: str) -> bool:
    return any(layer["class"] == kind for layer in facts)


def _order_of_flatten(facts: list[dict[str, Any]]) -> str:
    """Return in which order a dense layer reads a map, `HWC` or `CHW`; empty if nothing is flattened.

    Keras's Flatten of `channels_first` puts channels last before it flattens; one of `channels_last` does nothing.
    """
    orders = {layer.get("data_format") for layer in facts if layer["class"] == "Flatten"}
    maps = {layer["data_format"] for layer in facts if layer.get("data_format") and layer["class"] != "Flatten"}
    if not orders or not maps:
        return ""
    if len(orders) > 1 or len(maps) > 1 or (maps, orders) == ({"channels_last"}, {"channels_first"}):
        raise WeightsError("its configuration has several data_formats, so that no order of its maps is known.")
    return "CHW" if maps == {"channels_first"} and orders != maps else "HWC"


def _legacy(group: Group) -> Iterator[Variable]:
    """Yield the variables of a legacy file in its order, and see to it that none is passed over."""
    layers = _listed(group, "layer_names")
    if _TOP_LEVEL in group.children and _TOP_LEVEL not in layers:
        layers.append(_TOP_LEVEL)
    if strays := set(group.children) - {layer.partition("/")[0] for layer in layers}:
        raise WeightsError(f"the layer {min(strays)[:80]!r} is not in the file's own list of layers.")
    for layer in layers:
        within = group.at(layer)
        if not isinstance(within, Group):
            raise WeightsError(f"the layer {layer[:80]!r} is listed, but not there.")
        names = _listed(within, "weight_names")
        count = _count(within, f"{layer}/", frozenset(layers))
        if len(names) != count:
            raise WeightsError(f"the layer {layer[:80]!r} lists {len(names)} weights and has {count}.")
        paths = [re.sub(r":\d+$", "", name).split("/") for name in names]
        nested = len({tuple(path[:-1]) for path in paths}) > 1
        for name, path in zip(names, paths):
            folders = (layer, *path[path[0] == layer : -2]) if nested else ()
            old = _KERAS_1.fullmatch(path[-1])
            variable = _SINCE_KERAS_2.get(old[1], old[1]) if old else path[-1]
            values = within.at(name)
            if not isinstance(values, Dataset):
                raise WeightsError(f"the weight {name[:80]!r} is listed, but not there.")
            yield Variable(folders, path[-2] if nested and len(path) > 1 else layer, variable, values)


def _listed(group: Group, name: str) -> list[str]:
    """Return a list of names that Keras cuts into `NAME0`, `NAME1`, ... where it is long."""
    if name in group.texts:
        return list(group.texts[name])
    parts: list[str] = []
    while (part := f"{name}{len(parts)}") in group.texts:
        parts.append(part)
    return [entry for part in parts for entry in group.texts[part]]


def _count(group: Group, place: str, layers: frozenset[str]) -> int:
    """Return how many tensors are below a group, without other layers': Keras 2's names may have slashes."""
    return sum(
        1 if isinstance(child, Dataset) else _count(child, f"{place}{name}/", layers)
        for name, child in group.children.items()
        if f"{place}{name}" not in layers
    )


class _Counted:
    """Walks a file whose groups are `layers/CLASS_COUNTER/vars/NUMBER`."""

    def __init__(self, configs: Mapping[tuple[str, ...], LayerConfig]) -> None:
        self._configs = configs
        self.notes: set[str] = set()

    def variables(self, group: Group, place: tuple[str, ...], names: tuple[str, ...]) -> Iterator[Variable]:
        """Yield a group's variables and those below it.

        Args:
          group: The group.
          place: The path of its counted names.
          names: The path of its layers' names.
        """
        refuse_gaps(group.children)
        for child in by_number(group.children):
            within = group.children[child]
            if isinstance(within, Dataset):
                raise WeightsError(f"{'/'.join((*place, child))[:80]}: a tensor where Keras has none.")
            if child == "vars":
                yield from self._own(within, place, names)
            elif child == "optimizer" and not place:
                self.notes.add("the optimizer's state is not read")
            elif child == "seed_generator":
                self.notes.add("the states of random generators are not read")
            elif child in _PLAIN:
                yield from self.variables(within, place, names)
            else:
                yield from self.variables(within, (*place, child), (*names, self._name(within, (*place, child))))

    def _name(self, group: Group, place: tuple[str, ...]) -> str:
        own = group.group("vars")
        told = own.texts.get("name", []) if own else []
        config = self._configs.get(place)
        if config and told and told[0] != config.name:
            raise WeightsError(
                f"{'/'.join(place)[:80]} is {told[0][:80]!r} in the weights, {config.name[:80]!r} in the configuration."
            )
        name = config.name if config else told[0] if told else place[-1]
        stem = re.sub(r"_\d+$", "", place[-1])
        return place[-1] if is_automatic(name) or re.fullmatch(rf"{re.escape(stem)}(_\d+)?", name) else name

    def _own(self, group: Group, place: tuple[str, ...], names: tuple[str, ...]) -> Iterator[Variable]:
        numbers = by_number(group.children)
        values = [group.children[number] for number in numbers]
        datasets = [value for value in values if isinstance(value, Dataset)]
        if numbers != [str(i) for i in range(len(numbers))] or len(datasets) != len(values):
            raise WeightsError(f"{'/'.join(place)[:80]}: expected variables 0, 1, ..., got {', '.join(numbers)[:80]}.")
        config = self._configs.get(place, LayerConfig(""))
        kind = re.sub(r"_\d+$", "", place[-1]) if place else ""
        shapes = [value.shape for value in datasets]
        known = variable_names(shapes, center=config.center, scale=config.scale, kind=kind)
        layer = names[-1] if names else "model"
        for name, value in zip(known, datasets):
            yield Variable(names[:-1], layer, name, value, config.facts)
