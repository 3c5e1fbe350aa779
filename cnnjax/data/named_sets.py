"""The datasets with a name: what each one is, what its content must be, and where it can come from."""

from collections.abc import Mapping
from importlib import resources

import numpy as np

from cnnjax.data import imagenet, png
from cnnjax.data.cifar import cifar_binary_format, cifar_python_format
from cnnjax.data.formats import Examples, idx_format, npz_format
from cnnjax.data.sources import Embedded, Entry, Official, RemoteFile
from cnnjax.errors import CnnjaxError, unknown


def available() -> list[str]:
    """Return the names that `load_dataset` knows, sorted; besides them it takes `folder:DIR` and `tfds:NAME`.

    Example:
      >>> available()
      ['cifar10', 'cifar100', 'digits', 'fashion_mnist', 'imagenet2012', 'mnist']
    """
    return sorted(_ENTRIES)


def get(name: str) -> Entry:
    """Return the entry of that name."""
    if name not in _ENTRIES:
        raise unknown("dataset", name, [*_ENTRIES, "folder:DIR", "tfds:NAME"])
    return _ENTRIES[name]()


_COUNT = 1797


def digits() -> dict[str, Examples]:
    """Return scikit-learn's digits in 1,442 training and 355 test examples: of each class, every fifth one."""
    folder = resources.files("cnnjax.data") / "digits"
    try:
        images = png.decode([(folder / "digits.png").read_bytes()], (_COUNT, 64, 1)).reshape(_COUNT, 8, 8, 1)
        text = "".join((folder / "labels.txt").read_text(encoding="ascii").split())
        labels = np.array([int(letter) for letter in text], np.int32)
    except (OSError, ValueError) as error:
        raise CnnjaxError(f"{folder}: damaged, install cnnjax again ({error}).") from error
    if len(labels) != _COUNT:
        raise CnnjaxError(
            f"{folder / 'labels.txt'}: expected {_COUNT} labels, got {len(labels)}. Install cnnjax again."
        )
    rank = np.zeros(_COUNT, int)  # how many of its class came before each example
    for label in range(10):
        rank[labels == label] = np.arange(np.sum(labels == label))
    everything = Examples(images, labels)
    return {"train": everything.take(rank % 5 != 4), "test": everything.take(rank % 5 == 4)}


def _digits() -> Entry:
    return Entry(
        name="digits",
        version="1.0.0",
        description="1,797 handwritten digits of 8x8 pixels, the test part of UCI's Optical Recognition set.",
        homepage="https://archive.ics.uci.edu/dataset/80",
        image_shape=(8, 8, 1),
        class_names=tuple("0123456789"),
        names_known=False,
        counts={"train": 1442, "test": 355},
        digests={
            "train": "0505136f628eeaa30c4cbf58bacb6ca799e6b537400e7522ce4bbc6617522bac",
            "test": "ee9d378b216af93e375539000cb831c179c1b8ad221293fafc0c864dc10dadcd",
        },
        mean=(0.3051830926545375,),
        std=(0.37599408879372603,),
        validation=137,
        layouts=(),
        sources=(Embedded(digits),),
    )


_IDX_COUNTS = {"train": 60000, "test": 10000}
_CIFAR_COUNTS = {"train": 50000, "test": 10000}


def _idx_remote(names: Mapping[str, tuple[int, str]]) -> tuple[RemoteFile, ...]:
    return tuple(RemoteFile(f"{name}-ubyte.gz", size, sha256) for name, (size, sha256) in names.items())


def _mnist() -> Entry:
    layout = idx_format(_IDX_COUNTS)
    files = _idx_remote(
        {
            "train-images-idx3": (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            "train-labels-idx1": (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            "t10k-images-idx3": (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            "t10k-labels-idx1": (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        }
    )
    return Entry(
        name="mnist",
        version="3.0.1",
        description="70,000 handwritten digits of 28x28 pixels.",
        homepage="http://yann.lecun.com/exdb/mnist/",
        image_shape=(28, 28, 1),
        class_names=tuple("0123456789"),
        names_known=False,
        counts=_IDX_COUNTS,
        digests={
            "train": "ceb7dae35f33b78023fdd631afb40f55178e62cdc2ffb9a9914d62cf00c16f13",
            "test": "4be5dbf3279c06a13f5ec5886b40e9a0b86af9449a6194a03782ddd01e20fd11",
        },
        mean=(0.1306604762738429,),
        std=(0.3081078038564627,),
        validation=5000,
        layouts=(layout, npz_format("mnist.npz", _IDX_COUNTS)),
        sources=(Official("https://storage.googleapis.com/cvdf-datasets/mnist/", files, layout),),
    )


def _fashion_mnist() -> Entry:
    layout = idx_format(_IDX_COUNTS)
    files = _idx_remote(
        {
            "train-images-idx3": (26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            "train-labels-idx1": (29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            "t10k-images-idx3": (4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            "t10k-labels-idx1": (5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        }
    )
    return Entry(
        name="fashion_mnist",
        version="3.0.1",
        description="70,000 articles of clothing of 28x28 pixels.",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        image_shape=(28, 28, 1),
        class_names=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        counts=_IDX_COUNTS,
        digests={
            "train": "9b59105b0403efb11e8b880a02c46894ebc04265c845ebcbb781b324c4fdd377",
            "test": "42d9ee570837aba1cd0b32741e8c1a09f099a3abe1ff438da2b17208614d12f5",
        },
        mean=(0.2860405969887955,),
        std=(0.3530242445149226,),
        validation=5000,
        layouts=(layout,),
        sources=(Official("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", files, layout),),
    )


def _cifar10() -> Entry:
    binary = cifar_binary_format(
        {"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test": ("test_batch.bin",)},
        {"train": 10000, "test": 10000},
        coarse=False,
    )
    python = cifar_python_format(
        {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)},
        {"train": 10000, "test": 10000},
        coarse=False,
    )
    sha256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    archive = RemoteFile("cifar-10-binary.tar.gz", 170052171, sha256)
    return Entry(
        name="cifar10",
        version="3.0.2",
        description="60,000 colour photographs of 32x32 pixels in 10 classes.",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        image_shape=(32, 32, 3),
        class_names=(
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
        has_id=True,
        counts=_CIFAR_COUNTS,
        digests={
            "train": "6c3d94351344c6460973c9795f4a4fcc19984b1b894a9b39889a02e380f4d4d3",
            "test": "7742db831caeba84ea1d4663e0d07ca1879cbb76e501e036935be5fd5506749b",
        },
        mean=(0.49139967861519607, 0.48215840839460783, 0.44653091444546567),
        std=(0.24703223246328201, 0.24348512800005553, 0.2615878417279645),
        validation=5000,
        layouts=(binary, python),
        sources=(Official("https://www.cs.toronto.edu/~kriz/", (archive,), binary),),
    )


_CIFAR100_FAMILIES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}


def _cifar100() -> Entry:
    layout = cifar_binary_format(
        {"train": ("train.bin",), "test": ("test.bin",)}, {"train": 50000, "test": 10000}, coarse=True
    )
    python = cifar_python_format({"train": ("train",), "test": ("test",)}, {"train": 50000, "test": 10000}, coarse=True)
    sha256 = "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
    archive = RemoteFile("cifar-100-binary.tar.gz", 168513733, sha256)
    families = {name: family for family, names in enumerate(_CIFAR100_FAMILIES.values()) for name in names.split()}
    return Entry(
        name="cifar100",
        version="3.0.2",
        description="60,000 colour photographs of 32x32 pixels in 100 classes of 20 superclasses.",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        image_shape=(32, 32, 3),
        class_names=tuple(sorted(families)),
        coarse_names=tuple(_CIFAR100_FAMILIES),
        parents=tuple(families[name] for name in sorted(families)),
        has_id=True,
        counts=_CIFAR_COUNTS,
        # Where this was written the archive could not be had. Its sha256 is TFDS's; the moments follow from the mean
        # and deviation that are published to 16 digits: times the number of pixels they give whole numbers.
        digests=None,
        moments=((6620373279, 1093977562105), (6352382090, 1007075543166), (5756623363, 901128318593)),
        mean=(0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
        std=(0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
        validation=5000,
        layouts=(layout, python),
        sources=(Official("https://www.cs.toronto.edu/~kriz/", (archive,), layout),),
    )


_ENTRIES = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "imagenet2012": imagenet.entry,
}
