import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from cnnjax.data import named_sets
from cnnjax.data.prepare import builder_class, features
from cnnjax.data.sources import Official

STOCK = ["mnist", "fashion_mnist", "cifar10", "cifar100"]


@pytest.mark.parametrize("name", STOCK)
def test_features_and_version_are_the_stock_builders(name, tmp_path):
    entry, stock = named_sets.get(name), tfds.builder(name, data_dir=tmp_path)
    assert str(stock.version) == entry.version
    assert features(entry).to_json() == stock.info.features.to_json()
    assert stock.info.supervised_keys == builder_class(entry)(data_dir=str(tmp_path)).info.supervised_keys
    if name == "fashion_mnist":  # of the others TFDS learns the names from the files
        assert tuple(stock.info.features["label"].names) == entry.class_names


@pytest.mark.parametrize("name", STOCK)
def test_official_files_are_those_that_tfds_knows(name):
    (official,) = [source for source in named_sets.get(name).sources if isinstance(source, Official)]
    known = {url: (info.size, info.checksum) for url, info in tfds.builder_cls(name).url_infos.items()}
    assert {official.address + file.name: (file.size, file.sha256) for file in official.files} == known


def test_our_builders_leave_tfds_its_names():
    builder_class(named_sets.get("mnist"))
    assert tfds.builder_cls("mnist").__module__.startswith("tensorflow_datasets.")


def test_cifar100_families():
    entry = named_sets.get("cifar100")
    assert len(entry.class_names) == 100
    # Known places in the official lists of names.
    assert [entry.class_names[n] for n in (0, 1, 47, 52, 99)] == [
        "apple",
        "aquarium_fish",
        "maple_tree",
        "oak_tree",
        "worm",
    ]
    assert entry.coarse_names[17] == "trees"
    assert [n for n, parent in enumerate(entry.parents) if parent == 17] == [47, 52, 56, 59, 96]
    assert list(entry.coarse_names) == sorted(entry.coarse_names)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_moments_and_statistics_agree(name):
    entry = named_sets.get(name)
    pixels = entry.counts["train"] * entry.image_shape[0] * entry.image_shape[1]
    for (first, second), mean, std in zip(entry.moments, entry.mean, entry.std):
        assert mean == pytest.approx(first / pixels / 255, abs=1e-15)
        assert std == pytest.approx((second / pixels - (first / pixels) ** 2) ** 0.5 / 255, abs=1e-12)
    assert len(entry.mean) == len(entry.std) == entry.image_shape[2]


def test_importing_the_room_loads_nothing_slow_and_using_it_no_tensorflow(tmp_path):
    code = (
        "import sys, cnnjax.data as data\n"
        "slow = {'tensorflow_datasets', 'PIL', 'tensorflow', 'torch'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
        f"data.load_dataset('digits', data_dir={str(tmp_path)!r})\n"
        "assert 'tensorflow_datasets' in sys.modules\n"
        "assert not {'tensorflow', 'torch', 'apache_beam'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
