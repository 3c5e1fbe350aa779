"""Photographs of several sizes and kinds as JPEG files, and ImageNet in small, as TFDS prepares it."""

import dataclasses
import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cnnjax.data import imagenet

SIZES = [(40, 60), (60, 40), (48, 48), (200, 150), (33, 70), (300, 400)]


def picture(size, seed=0, mode="RGB"):
    """Return a smooth picture with some noise, `size` being its height and width."""
    rng = np.random.default_rng(seed)
    height, width = size
    bands = {"RGB": 3, "L": 1, "CMYK": 4}[mode]
    coarse = rng.integers(0, 256, (4, 4, bands), dtype=np.uint8)
    smooth = [Image.fromarray(coarse[..., band]).resize((width, height), Image.BICUBIC) for band in range(bands)]
    noisy = np.stack(smooth, axis=-1) + rng.normal(0, 6, (height, width, bands))
    return Image.frombytes(mode, (width, height), np.clip(noisy, 0, 255).astype(np.uint8).tobytes())


def jpeg(image, **options):
    """Return an image as the bytes of a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92, **options)
    return file.getvalue()


def examples(count, seed=0):
    """Return `(file name, bytes, class)` of as many images: all sizes, one in seven grey, one in eleven CMYK."""
    found = []
    for number in range(count):
        mode = "L" if number % 7 == 3 else "CMYK" if number % 11 == 5 else "RGB"
        image = picture(SIZES[number % len(SIZES)], seed * 1000 + number, mode)
        found.append((f"n{seed:03d}_{number}.JPEG", jpeg(image), number * 37 % 1000))
    return found


def write_imagenet(root, splits, *, name="imagenet2012", version="5.1.0", classes=None):
    """Write examples, by TFDS's split, as TFDS's ImageNet in array_record files, and return the folder."""
    class_names = imagenet.entry().class_names if classes is None else classes

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=class_names),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            for file_name, data, label in splits[split]:
                yield file_name, {"image": data, "label": label, "file_name": file_name}

    Builder.name = name
    builder = Builder(data_dir=str(root), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return root / name / version


def entry(splits, **changes):
    """Return ImageNet's entry for as many examples as these."""
    counts = {ours: len(splits.get(theirs, ())) for ours, theirs in (("train", "train"), ("test", "validation"))}
    return dataclasses.replace(imagenet.entry(), counts=counts, **changes)
