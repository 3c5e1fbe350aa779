"""One trained net, whatever it came from: a run's workdir, an official file, any weights file, a state in memory."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.export import Exported

from cnnjax import data, files, model_loading, modes, pretrained, training
from cnnjax.classifier import photographs, program, sources
from cnnjax.classifier.parts import checked_parts
from cnnjax.classifier.photographs import Prediction, Predictions
from cnnjax.classifier.sources import Log
from cnnjax.errors import CnnjaxError, UsageError
from cnnjax.pretrained import Preprocess
from cnnjax.pretrained.head import replace_head

_AT_ONCE = 16  # images that `predict` computes together


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A model with its variables, its preprocessing and the names of its classes.

    Args:
      model: A linen module that gives logits `[N, len(class_names)]`.
      variables: `{"params": ..., "batch_stats": ...}`.
      preprocess: From photographs to what the model takes, or its name; None where that is not known, and then it can
        only be evaluated and trained, on datasets that are prepared by their own statistics.
      class_names: In the order of the logits.
    Raises:
      UsageError: If a part is something else, or there are more or fewer names than the model's `num_classes`.
    Example:
      `print(Classifier.from_pretrained("resnet50").predict("cat.jpg"))`
    """

    model: nn.Module
    variables: Mapping[str, Any]
    preprocess: Preprocess | None
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        parts = checked_parts(self.model, self.variables, self.preprocess, self.class_names)
        for field, part in zip(dataclasses.fields(self), parts, strict=True):
            object.__setattr__(self, field.name, part)

    @classmethod
    def from_pretrained(cls, name: str, *, log: Log | None = None, progress: Any = None) -> "Classifier":
        """Fetch official weights, once, and return their net.

        Args:
          name: One of `cnnjax.pretrained.published_names()`, such as `resnet50` or `resnet50:v2`.
          log: Called with lines about what is going on; None to say nothing.
          progress: See `cnnjax.pretrained.download.download`.
        Raises:
          CnnjaxError: If there is no such file, it can't be had, or it has no classifier.
        """
        model_loading.model_name(name)  # what is not an official name, such as `hf:...`, is told what to type
        if not pretrained.published(name).options.get("include_top", True):
            raise UsageError(f"{name}: its official file has no classifier. Load it with cnnjax.pretrained.load.")
        return cls.from_file(name, sources.fetch(name, log=log, progress=progress), log=log)

    @classmethod
    def from_file(
        cls,
        model: nn.Module | str,
        path: str | pathlib.Path,
        *,
        preprocess: Preprocess | str | None = None,
        class_names: Sequence[str] | None = None,
        log: Log | None = None,
        **options: Any,
    ) -> "Classifier":
        """Return a net with weights from a file.

        Args:
          model: A linen module with `input_shape`, or a name for `cnnjax.models.build`, of an official file, or
            `package.module:Class`: then it gets as many classes as the file has.
          path: What `cnnjax.pretrained.load` reads.
          preprocess: How images are prepared, or a name for `cnnjax.pretrained.preprocess`. If None, as the file
            says, or else as the publisher does whose names the file has.
          class_names: Names of the classes. If None, as the file says, or ImageNet's for 1000 classes, else numbers.
          log: Called with lines about what is going on; None to say nothing.
          **options: For `cnnjax.pretrained.load`.
        Raises:
          CnnjaxError: If the file can't be read, does not fit, has no classifier or another number of classes.
        """
        return cls(*sources.read_file(model, path, preprocess, class_names, log, options))

    @classmethod
    def from_run(cls, workdir: str | pathlib.Path, *, log: Log | None = None) -> "Classifier":
        """Return what a training run made, from its newest whole checkpoint: the moving averages, if there are any.

        Args:
          workdir: The run's folder.
          log: Called with warnings; None to say nothing.
        """
        model, variables, preprocess, names, notes = sources.restore(pathlib.Path(workdir))
        sources.say(log, [f"warning: {note}" for note in notes])
        return cls(model, variables, preprocess, names)

    def predict(
        self, images: Any, top: int = 5, *, invert: bool = False, pixel_range: tuple[float, float] | None = None
    ) -> Predictions:
        """Return the most probable classes of each image.

        Args:
          images: Paths, Pillow's images, or uint8 arrays `[H, W]`, `[H, W, C]` of any sizes; one of them, or several.
          top: How many classes.
          invert: Whether to swap light and dark, for ink on paper where the net knows light on dark.
          pixel_range: What black and white are stored as in pixels deeper than 8 bits; None for what the preprocessing
            or the file says.
        Raises:
          CnnjaxError: If an image can't be read or gives no numbers, or it is not known how images are prepared.
        """
        if top < 1:
            raise UsageError(f"top: expected at least 1, got {top}.")
        rule, listed, found = self.known_preprocess(), photographs.listed(images), []
        options = {"invert": invert, "pixel_range": pixel_range or rule.pixel_range}
        for first in range(0, len(listed), _AT_ONCE):
            group = [photographs.read(name, image, rule, **options) for name, image in listed[first : first + _AT_ONCE]]
            scores = self._probabilities(self.variables, jnp.concatenate([self._prepare(one.pixels) for one in group]))
            for one, share in zip(group, np.array(scores)):
                if not np.isfinite(share).all():
                    raise CnnjaxError(f"{one.name}: the net gives no numbers for it (NaN). Its weights may be damaged.")
                if len(share) != len(self.class_names):
                    raise UsageError(f"expected {len(share)} class_names, one a logit, got {len(self.class_names)}.")
                best = np.argsort(-share, kind="stable")[:top]
                classes = tuple(self.class_names[place] for place in best)
                found.append(Prediction(one.name, classes, tuple(map(float, share[best])), one.done, one.hint))
        return Predictions(found)

    def create_state(
        self,
        dataset: data.Dataset,
        tx: optax.GradientTransformation,
        *,
        key: jax.Array,
        freeze: str | None = None,
        ema: bool = False,
    ) -> training.TrainState:
        """Return the state of a training that starts from this net, on images as it knows them.

        The dataset's batches are normalised by its own statistics; the state's `apply_fn` undoes that and prepares them
        as `preprocess` says, grey images as colours and colours as grey where the net was made for these.

        Args:
          dataset: What is trained on, or evaluated, of the size that the net takes, see `sized`.
          tx: The optimizer; for this and the rest see `cnnjax.training.create_state`.
          key: PRNG key of the run.
          freeze: Which parameters stay.
          ema: Whether to keep moving averages.
        """
        rule, mean, std = self.preprocess, dataset.info.mean, dataset.info.std
        depth = len(mean) if rule is None else rule.depth
        shape = (*dataset.test.image_shape[:2], depth)
        state = training.create_state(self.model, tx, shape, key=key, variables=self.variables, freeze=freeze, ema=ema)
        if rule is None or rule.is_plain(mean, std):
            return state
        apply_fn = state.apply_fn

        def apply(variables: Any, images: jax.Array, **options: Any) -> Any:
            return apply_fn(variables, rule.renormalize(images, mean, std), **options)

        return state.replace(apply_fn=apply)

    def sized(self, dataset: data.Dataset) -> data.Dataset:
        """Return a dataset with images of the size that the net knows."""
        rule = self.preprocess
        if rule is not None:
            return dataset.resized(rule.size, rule.resize)
        size = photographs.needed_size(self.model, dataset.info.image_shape)
        return dataset if size is None else dataset.resized(size)

    def with_classes(self, class_names: Sequence[str], *, key: jax.Array) -> "Classifier":
        """Return the same net with a new head, of random values, for other classes; all else stays.

        The names are in the order of the labels; the key draws the head.
        """
        if not hasattr(self.model, "num_classes"):
            raise UsageError(
                f"{type(self.model).__name__}: expected a model with `num_classes`, to give it a new head."
            )
        model = self.model.clone(num_classes=len(class_names))
        variables = replace_head(model, self.variables, key)
        return Classifier(model, variables, self.preprocess, tuple(class_names))

    def evaluate(
        self, dataset: data.Dataset, *, split: str = "test", batch_size: int | None = None, **options: Any
    ) -> training.Metrics:
        """Return the metrics of every example of a split, each counted once, with the confusion matrix.

        Args:
          dataset: With as many classes, in the same order; images are resized to what the net knows.
          split: `test`, `validation` or `train`.
          batch_size: Images at once.
          **options: Of `training.make_eval_step`: `flip_tta`, `loss`.
        """
        sources.check_classes(self.class_names, dataset)
        dataset = self.sized(dataset)
        state = self.create_state(dataset, optax.identity(), key=jax.random.key(0))
        part = getattr(dataset, split)
        batches = data.batches(part, batch_size or photographs.eval_batch_size(part.image_shape))
        return training.evaluate(state, batches, eval_step=training.make_eval_step(confusion=True, **options))

    def export(
        self,
        path: str | pathlib.Path,
        *,
        image_size: tuple[int, int] | None = None,
        batch_size: int | None = None,
        platforms: Sequence[str] = program.PLATFORMS,
    ) -> Exported:
        """Write the net with its preprocessing as one StableHLO program from uint8 images to logits, and return it.

        Args:
          path: The file, for `jax.export.deserialize`, which runs it without cnnjax.
          image_size: `(H, W)` of the photographs that it takes; None for squares of the size before the centre is cut
            out. A run's program takes images as its dataset stores them.
          batch_size: Images that it takes at once; None for any number.
          platforms: Where it is to run.
        Raises:
          CnnjaxError: If the ending promises another format, or the net or the file can't be written.
        """
        program.check_path(path)
        rule = self.known_preprocess()
        shape = rule.read_shape(*(image_size or (rule.resize or 0, rule.resize or 0)))
        made = program.make(lambda images: self._apply(self.variables, rule(images)), shape, batch_size, platforms)
        files.write_bytes(path, [bytes(made.serialize())])
        return made

    def save(self, path: str | pathlib.Path, *, names: str = "cnnjax") -> None:
        """Write variables, preprocessing and class names for `from_file`; see `cnnjax.pretrained.save`."""
        metadata = sources.metadata(self.preprocess, self.class_names)
        pretrained.save(self.variables, path, names=names, model=self.model, metadata=metadata)

    def known_preprocess(self) -> Preprocess:
        """Return how images are prepared; raise UsageError where that is not known."""
        if self.preprocess is None:
            raise UsageError(f"{type(self.model).__name__}: how images are prepared is not known. Give preprocess=.")
        return self.preprocess

    def _apply(self, variables: Any, images: jax.Array) -> Any:
        mode: Any = modes.train_kwargs(self.model, train=False)
        return self.model.apply(variables, images, **mode)

    @functools.cached_property
    def _probabilities(self) -> Any:
        return jax.jit(lambda variables, images: jax.nn.softmax(self._apply(variables, images)))

    @functools.cached_property
    def _prepare(self) -> Any:
        return jax.jit(lambda pixels: self.known_preprocess()(pixels[None]))
