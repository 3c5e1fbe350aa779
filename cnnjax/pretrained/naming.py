"""From the names of a published file to cnnjax's parameter paths, and back: rename rules as data.

A rule is a pair of templates, `layer{i}.{j}.conv{k}` and `stage{i}_block{j}/conv{k}`. A field of one letter is a number
(`{j+1}` is that number plus one, `{j-1}` minus one), a longer one is a word without dots, and one with a star
(`{rest*}`) is everything that is left. Both sides are read with the same fields, so a rule works in both directions.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cnnjax.errors import UsageError

_FIELD = re.compile(r"\{([a-z]+)(\*)?([+-]\d+)?\}")


@dataclass(frozen=True)
class Rule:
    """Rename one kind of module or tensor.

    Args:
      source: Template of the name in the file, of the module (`layer{i}.{j}.conv{k}`, without `.weight`), or of the
        whole tensor if the target is one.
      target: Template of cnnjax's path: of the module (`stage{i}/block{j}/conv{k}`), or of one array if it begins with
        `params/` or `batch_stats/`. Several templates: the array is split along its last axis. None: not taken.
      flatten: `(height, width)` of the feature map that a dense kernel reads flattened, channels first in the file.
      reason: For a target of None, why that is right; the report says it.
    """

    source: str
    target: str | tuple[str, ...] | None
    flatten: tuple[int, int] | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        for target in self.targets:
            unknown = _fields(target) - _fields(self.source)
            if unknown:
                raise UsageError(f"rule {self.source!r} -> {target!r}: its source has no {{{min(unknown)}}}.")

    @property
    def targets(self) -> tuple[str, ...]:
        """The target's templates as a tuple."""
        return () if self.target is None else (self.target,) if isinstance(self.target, str) else self.target

    @property
    def names_arrays(self) -> bool:
        """Whether the rule is about a single array, not a module."""
        return not self.targets or self.targets[0].startswith(("params/", "batch_stats/"))


@dataclass(frozen=True)
class Leaf:
    """What the last part of a tensor's name means.

    Args:
      source: The last part, such as `running_mean`.
      path: Collection and name in cnnjax, such as `batch_stats` and `mean`; None for what no model of ours has.
      ranks: The ranks of the tensors that are meant.
      reason: For a path of None, why that is right.
    """

    source: str
    path: tuple[str, str] | None
    ranks: tuple[int, ...] = (1,)
    reason: str = ""


@dataclass(frozen=True)
class Layout:
    """How a framework calls the arrays of a module and lays them out.

    Args:
      separator: Between the parts of a name.
      leaves: The last parts.
      channels_first: Whether kernels are `[O, I, H, W]` and `[O, I]`, not `[H, W, I, O]` and `[I, O]`.
    """

    separator: str
    leaves: tuple[Leaf, ...]
    channels_first: bool = False


# What `torch.optim.swa_utils.AveragedModel` has beside the names of the model that it wraps.
AVERAGED = "n_averaged"
_COUNTER = "a counter of training steps that no model reads at inference or trains with (momentum is given)"
TORCH = Layout(
    ".",
    (
        Leaf("weight", ("params", "kernel"), (2, 4)),
        Leaf("weight", ("params", "scale")),
        Leaf("bias", ("params", "bias")),
        Leaf("running_mean", ("batch_stats", "mean")),
        Leaf("running_var", ("batch_stats", "var")),
        Leaf("num_batches_tracked", None, (0, 1), _COUNTER),
        Leaf(AVERAGED, None, (0, 1), "how many states torch's AveragedModel averaged"),
    ),
    channels_first=True,
)
KERAS = Layout(
    "/",
    (
        Leaf("kernel", ("params", "kernel"), (2, 4)),
        Leaf("depthwise_kernel", ("params", "kernel"), (4,)),  # what it was called before Keras 3
        Leaf("bias", ("params", "bias")),
        Leaf("gamma", ("params", "scale")),
        Leaf("beta", ("params", "bias")),
        Leaf("moving_mean", ("batch_stats", "mean")),
        Leaf("moving_variance", ("batch_stats", "var")),
    ),
)
KERAS_FORMATS = ("keras-h5", "keras-weights-h5", "keras")
# cnnjax's own names, as `save`, Flax and Orbax write them; `params` alone is a file of parameters.
CNNJAX = Layout("/", ())


@dataclass(frozen=True)
class Naming:
    """How a family's tensors are named by one publisher.

    Args:
      name: What `source=` calls it, such as `torchvision`.
      layout: How the framework calls a module's arrays.
      rules: Tried in order, the first that fits counts; or a function of the model that gives them, for names that
        number all layers through.
      formats: The file formats in which it is found.
    """

    name: str
    layout: Layout
    rules: tuple[Rule, ...] | Callable[[Any], tuple[Rule, ...]]
    formats: tuple[str, ...] = ("torch", "safetensors")

    def rules_for(self, model: Any) -> tuple[Rule, ...]:
        """Return the rules for one model of the family."""
        return self.rules(model) if callable(self.rules) else self.rules


def translate(template: str, into: str, name: str) -> str | None:
    """Return a name rewritten from one template to the other, or None if it does not fit the first.

    Args:
      template: What the name looks like.
      into: What it is to become.
      name: The name.
    Example:
      >>> translate("layer{i}.{j}.conv{k}", "stage{i}_block{j+1}/conv{k}", "layer1.0.conv2")
      'stage1_block1/conv2'
    """
    found = _compiled(template).fullmatch(name)
    if not found or not _fields(into) <= found.groupdict().keys():
        return None
    values: dict[str, str] = {}
    for field in _FIELD.finditer(template):
        text = found[field[1]]
        number = int(text) - int(field[3] or 0) if len(field[1]) == 1 else None
        if number is not None and number < 0:
            return None
        values[field[1]] = text if number is None else str(number)

    def fill(field: re.Match[str]) -> str:
        value = values[field[1]]
        return str(int(value) + int(field[3])) if field[3] else value

    return _FIELD.sub(fill, into)


def source_name(path: str, rules: Sequence[Rule], layout: Layout) -> str | None:
    """Return the name that a file would have for a path of cnnjax: the first rule that leads there, backwards.

    Args:
      path: Such as `params/stem/conv/kernel`.
      rules: The naming's.
      layout: The naming's.
    Returns:
      The name, or None if no rule leads there or the path is one of several that share a tensor.
    """
    collection, _, rest = path.partition("/")
    module, _, array = rest.rpartition("/")
    leaf = next((leaf for leaf in layout.leaves if leaf.path == (collection, array)), None)
    for rule in rules:
        if len(rule.targets) != 1:
            continue
        if rule.names_arrays or not layout.leaves:
            name = translate(rule.targets[0], rule.source, path)
            if name is not None:
                return name
        elif leaf is not None:
            name = translate(rule.targets[0], rule.source, module)
            if name is not None:
                return f"{name}{layout.separator}{leaf.source}"
    return None


def as_rules(rules: Sequence[Rule | tuple[str, str]]) -> tuple[Rule, ...]:
    """Return a user's rules, pairs of templates among them, as rules.

    Raises:
      UsageError: If one is neither a rule nor a pair.
    """
    if isinstance(rules, str) or not isinstance(rules, Sequence):
        raise _no_rule(rules)
    return tuple(rule if isinstance(rule, Rule) else _from_pair(rule) for rule in rules)


def _from_pair(pair: Any) -> Rule:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise _no_rule(pair)
    source, target = pair
    targets = target if isinstance(target, tuple) else (target,)
    if not all(isinstance(template, str) for template in (source, *targets)):
        raise _no_rule(pair)
    return Rule(source, target)


def _no_rule(found: Any) -> UsageError:
    return UsageError(
        f'rules: expected a list of pairs of templates, such as [("linear", "head/logits")], or of Rule, got '
        f"{repr(found)[:80]}."
    )


def _fields(template: str) -> set[str]:
    return {field[1] for field in _FIELD.finditer(template)}


_patterns: dict[str, re.Pattern[str]] = {}


def _compiled(template: str) -> re.Pattern[str]:
    """Return the regular expression of a template: one named group a field, repeated ones refer back."""
    if template not in _patterns:
        parts, end, seen = [], 0, set()
        for field in _FIELD.finditer(template):
            parts.append(re.escape(template[end : field.start()]))
            name, star = field[1], field[2]
            kind = ".*" if star else r"\d{1,6}" if len(name) == 1 else r"\w+?"
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{kind})")
            seen.add(name)
            end = field.end()
        _patterns[template] = re.compile("".join(parts) + re.escape(template[end:]))
    return _patterns[template]
