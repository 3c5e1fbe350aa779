"""TFDS builders that write the content they are given; features and splits are the stock builders' own.

Only this module and `prepared` import TFDS, and only when they are needed: it takes a second.
"""

import types
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow_datasets as tfds

from cnnjax.data import png
from cnnjax.data.content import Examples
from cnnjax.data.entry import Entry


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Write examples that were read and verified elsewhere: nothing is downloaded here.

    Stock builders hand arrays to TensorFlow for encoding; bytes that are PNG already need no TensorFlow.
    """

    entry: Entry
    content: Mapping[str, Examples | Iterable[dict[str, Any]]] = {}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.entry.description,
            features=features(self.entry),
            supervised_keys=("image", "label"),
            homepage=self.entry.homepage,
        )

    # Without the base's argument `pipeline`: TFDS would load Beam to pass one.
    def _split_generators(self, dl_manager):  # pyright: ignore[reportIncompatibleMethodOverride]
        return {split: self._generate_examples(split) for split in self.content}

    def _generate_examples(self, split):
        examples = self.content[split]
        if not isinstance(examples, Examples):
            for example in examples:
                yield example["file_name"], example
            return
        for place, image in enumerate(examples.images):
            example = {"image": png.encode(image), "label": int(examples.labels[place])}
            if self.entry.coarse_names and examples.coarse is not None:
                example["coarse_label"] = int(examples.coarse[place])
            if self.entry.has_id:
                example["id"] = f"{split}_{place:05d}"
            yield place, example


def builder_class(entry: Entry) -> type[_Builder]:
    """Return the builder of a dataset; it is not registered with TFDS, whose own builder keeps the name."""
    fields = {"entry": entry, "name": entry.name, "VERSION": tfds.core.Version(entry.version), "__module__": __name__}
    return types.new_class(
        f"Builder_{entry.name}", (_Builder,), {"skip_registration": True}, lambda b: b.update(fields)
    )


def features(entry: Entry) -> tfds.features.FeaturesDict:
    """Return the features of a dataset, equal to those of TFDS's own builder."""
    label = tfds.features.ClassLabel
    if entry.streamed:
        image, classes = tfds.features.Image(encoding_format="jpeg"), label(names=entry.class_names)
        return tfds.features.FeaturesDict({"image": image, "label": classes, "file_name": tfds.features.Text()})
    classes = label(names=entry.class_names) if entry.names_known else label(num_classes=len(entry.class_names))
    found = {"image": tfds.features.Image(shape=entry.image_shape), "label": classes}
    if entry.coarse_names:
        found["coarse_label"] = label(names=entry.coarse_names)
    if entry.has_id:
        found["id"] = tfds.features.Text()
    return tfds.features.FeaturesDict(found)
