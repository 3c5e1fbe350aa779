"""What is known about a dataset before any of it is read."""

import dataclasses
from collections.abc import Mapping

from cnnjax.data.formats import Format
from cnnjax.data.sources import Source
from cnnjax.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """Describe one dataset.

    Args:
      name: Its name, TFDS's where TFDS has it.
      version: TFDS's version of the same features and splits.
      description: One sentence.
      homepage: Where its makers describe it.
      image_shape: `(H, W, C)`; of a streamed set what its images are cut to unless the caller says otherwise.
      class_names: One name a class.
      coarse_names: One name a superclass, where there are any.
      parents: For each class the number of its superclass.
      names_known: Whether TFDS stores the names too, or only their number.
      has_id: Whether TFDS's features have a text `id`.
      counts: Examples in `"train"` and `"test"`.
      digests: sha256 of the content of each split, see `content.canonical`; None where it could not be worked out.
      moments: For each channel the sum of all training pixels and of their squares; checked where there is no digest.
      mean: Per channel, of the training images in [0, 1].
      std: The same for the standard deviation.
      validation: Examples taken out of the training set unless the caller says otherwise.
      layouts: The formats it is published in; what a folder that the user names is searched for.
      sources: Where it can come from, in the order in which they are tried.
      older_versions: Versions of TFDS's with the same content, newest first; used where they are prepared already.
      test_split: TFDS's name of the split that no decision may depend on.
      streamed: Whether its images are of different sizes and do not fit in memory: see `streamed.StreamedSplit`. Only
        the number of its examples and its features are verified.
    """

    name: str
    version: str
    description: str
    homepage: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    coarse_names: tuple[str, ...] = ()
    parents: tuple[int, ...] = ()
    names_known: bool = True
    has_id: bool = False
    counts: Mapping[str, int]
    digests: Mapping[str, str] | None
    moments: tuple[tuple[int, int], ...] = ()
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation: int
    layouts: tuple[Format, ...]
    sources: tuple[Source, ...]
    older_versions: tuple[str, ...] = ()
    test_split: str = "test"
    streamed: bool = False

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Names of the label features, the one that is trained on first."""
        return ("label", "coarse_label") if self.coarse_names else ("label",)


def check_validation(name: str, number: int, training: int) -> None:
    """Raise UsageError unless that many examples can be put aside for validation."""
    if not 0 <= number < max(training, 1):
        raise UsageError(
            f"validation: expected 0 to {max(training - 1, 0)} examples of {name}'s {training} training examples, "
            f"got {number}."
        )
