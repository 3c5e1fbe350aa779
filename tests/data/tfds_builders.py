"""Sets of any name and features, written through TFDS itself."""

import io

import tensorflow_datasets as tfds
from PIL import Image

F = tfds.features


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def build(root, name, features, splits, *, version="1.0.0", configs=(), keys=None):
    """Write examples, by split, as a set of that name, through TFDS; return the root."""

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config, version=version) for config in configs]  # noqa: RUF012

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict(features), supervised_keys=keys)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            yield from enumerate(splits[split])

    Builder.name = name
    for config in configs or (None,):
        builder = Builder(data_dir=str(root), file_format="array_record", config=config)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return root
