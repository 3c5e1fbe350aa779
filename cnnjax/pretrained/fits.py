"""Which known net a file of weights is for."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flax import linen as nn

from cnnjax import models
from cnnjax.pretrained.head import allow_other_head
from cnnjax.pretrained.loading import abstract_shapes, plan_for
from cnnjax.pretrained.match import Shapes, destinations
from cnnjax.pretrained.naming import KERAS_FORMATS
from cnnjax.pretrained.rules import OWN_PARAMS, namings_for
from cnnjax.pretrained.tensors import SourceFile

# Modules that an option takes out, three of them dense layers in LeNet-5; another depth lacks more.
_PARTS = 3


@dataclass(frozen=True)
class Fit:
    """A net that a file fits to the last tensor.

    Args:
      model: Its name.
      naming: Whose names the file has.
      num_classes: Classes of the file; None if it is without the classifier.
      options: What `models.build` takes beside the name to make exactly that net.
    """

    model: str
    naming: str
    num_classes: int | None
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """Return the net, with as many classes as the file has."""
        classes = models.num_classes(self.model) if self.num_classes is None else self.num_classes
        return models.build(self.model, num_classes=classes, **self.options)


def identify(file: SourceFile, names: Sequence[str] | None = None) -> list[Fit]:
    """Return the nets that a file fits: every tensor used once, every parameter set once.

    Nothing is read but names and shapes, and nothing computed.

    Args:
      file: From `open_file`.
      names: Nets to try; None for all.
    """
    found: list[Fit] = []
    # Only Keras's files, and our own behind the other form's, are taken for Keras's forms.
    keras = file.format in KERAS_FORMATS
    for name in names or [name for name in models.available() if keras or not name.endswith("_keras")]:
        fit = _fit(file, name)
        if fit is not None:
            found.append(fit)
            # Our own names are of one net only, or of one in two publishers' forms, and to try all takes long.
            if fit.naming.startswith("cnnjax"):
                twin = f"{name}_keras"
                if names is None and twin in models.available() and (other := _fit(file, twin)):
                    found.append(other)
                break
    return found


def _fit(file: SourceFile, name: str) -> Fit | None:
    classes = models.num_classes(name)
    for options in _variants(models.build(name)):
        model = models.build(name, num_classes=classes, **options)
        shapes: Shapes | None = None
        close = False
        for naming in namings_for(model):
            rules = naming.rules_for(model)
            if file.format not in naming.formats:
                continue
            if naming is OWN_PARAMS and not all("/" in name for name in file.tensors):
                continue  # no paths, and it would take any name
            paths = destinations(file, rules, naming.layout)
            if paths is None:
                continue
            shapes = shapes or _shapes_if_close(model, paths)
            if shapes is None:
                continue
            plan = plan_for(file, model, shapes, naming)
            widths = [assignment.transform.target[-1] for assignment in plan.misshaped if assignment.transform.target]
            head = allow_other_head(plan, model, shapes, abstract_shapes)
            if not head.plan.problems and head.num_classes != 0:
                top = options.get("include_top", True)
                return Fit(name, plan.naming, (widths or [classes])[0] if top else None, options)
            lacking = {path.split("/")[1] for path in plan.missing}
            close |= not (plan.left_over or plan.doubled) and len(lacking) <= _PARTS
        if not close:
            return None
    return None


class _OtherNetError(Exception):
    """A net has more that a file lacks than an option could take out of it."""


def _shapes_if_close(model: nn.Module, paths: Collection[str]) -> Shapes | None:
    """Return the shapes of a model's parameters, or None as soon as it has parts that a file has not.

    Tracing a deep net takes seconds; most nets show after a few layers that they are not the one.

    Args:
      model: The model.
      paths: Where the file's tensors would go.
    """
    known = {path.partition("/")[2].rpartition("/")[0] for path in paths}
    lacking: set[str] = set()

    def watch(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **kwargs)
        module = context.module
        own = any(hasattr(value, "shape") for value in module.variables.get("params", {}).values())
        if own and "/".join(module.path) not in known:
            lacking.add("/".join(module.path[:1]))
            if len(lacking) > _PARTS:
                raise _OtherNetError
        return result

    try:
        with nn.intercept_methods(watch):
            return abstract_shapes(model)
    except _OtherNetError:
        return None


def _variants(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Give the options to try: the net as it is, without its auxiliary heads, without its classifier."""
    yield {}
    if getattr(model, "aux_logits", False):
        yield {"aux_logits": False}
    if hasattr(model, "include_top"):
        yield {"include_top": False}
