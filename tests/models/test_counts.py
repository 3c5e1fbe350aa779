"""The number of parameters of every net, exact to one, against what its publisher says."""

import jax
import jax.numpy as jnp
import pytest

from cnnjax import models
from tests.models.variants import marks
from tests.pretrained.torchvision_oracle import torchvision

LECUN = "LeCun et al., 1998, worked out layer by layer"
TORCHVISION = "torchvision, num_params of the weights' meta"
KERAS = "keras.applications, count_params of the model"
NO_TOP = {"include_top": False}
NO_AUX = {"aux_logits": False}

# Name, options, trainable parameters, source. Keras's totals count the running statistics: they are below.
TRAINABLE = [
    ("lenet5", {}, 61_706, LECUN),
    ("lenet5_1998", {}, 60_850, f"{LECUN}: 60,000 up to F6 and 850 of the dense head"),
    ("alexnet", {}, 61_100_840, TORCHVISION),
    ("vgg11", {}, 132_863_336, TORCHVISION),
    ("vgg11_bn", {}, 132_868_840, TORCHVISION),
    ("vgg13", {}, 133_047_848, TORCHVISION),
    ("vgg13_bn", {}, 133_053_736, TORCHVISION),
    ("vgg16", {}, 138_357_544, f"{TORCHVISION}; {KERAS}"),
    ("vgg16", NO_TOP, 14_714_688, KERAS),
    ("vgg16_bn", {}, 138_365_992, TORCHVISION),
    ("vgg19", {}, 143_667_240, f"{TORCHVISION}; {KERAS}"),
    ("vgg19", NO_TOP, 20_024_384, KERAS),
    ("vgg19_bn", {}, 143_678_248, TORCHVISION),
    ("vgg16_cifar", {}, 14_728_266, "github.com/kuangliu/pytorch-cifar, models/vgg.py"),
    ("googlenet", NO_AUX, 6_998_552, "Szegedy et al., 2014, Table 1, its widths with biases"),
    ("googlenet", {}, 13_378_280, "the same with both auxiliary classifiers of section 5"),
    ("googlenet_torchvision", NO_AUX, 6_624_904, TORCHVISION),
    ("googlenet_torchvision", {}, 13_004_888, "torchvision, GoogLeNet(aux_logits=True)"),
    ("googlenet_cifar", {}, 6_166_250, "github.com/kuangliu/pytorch-cifar, models/googlenet.py"),
    ("inception_v3", {}, 23_817_352, KERAS),
    ("inception_v3_torchvision", {}, 27_161_264, TORCHVISION),
    ("inception_v3_torchvision", NO_AUX, 23_834_568, "torchvision, Inception3(aux_logits=False)"),
    ("resnet18", {}, 11_689_512, TORCHVISION),
    ("resnet34", {}, 21_797_672, TORCHVISION),
    ("resnet50", {}, 25_557_032, TORCHVISION),
    ("resnet101", {}, 44_549_160, TORCHVISION),
    ("resnet152", {}, 60_192_808, TORCHVISION),
    ("resnext50_32x4d", {}, 25_028_904, TORCHVISION),
    ("resnext101_32x8d", {}, 88_791_336, TORCHVISION),
    ("wide_resnet50_2", {}, 68_883_240, TORCHVISION),
    ("wide_resnet101_2", {}, 126_886_696, TORCHVISION),
    ("seresnet50", {}, 28_088_024, "github.com/Cadene/pretrained-models.pytorch, se_resnet50; timm says 28.1M"),
    ("resnet50d", {}, 25_576_264, "timm, results/model_metadata: 25.58M, worked out"),
    ("resnext29_8x64d", {}, 34_426_698, "Xie et al., 2016, Table 7 (34.4M), worked out"),
    ("densenet121", {}, 7_978_856, TORCHVISION),
    ("densenet169", {}, 14_149_480, TORCHVISION),
    ("densenet201", {}, 20_013_928, TORCHVISION),
    ("mobilenet_v2", {}, 3_504_872, TORCHVISION),
    ("mobilenet_v3_small", {}, 2_542_856, TORCHVISION),
    ("mobilenet_v3_large", {}, 5_483_032, TORCHVISION),
    ("efficientnet_b0", {}, 5_288_548, TORCHVISION),
    ("efficientnet_b1", {}, 7_794_184, TORCHVISION),
    ("efficientnet_b2", {}, 9_109_994, TORCHVISION),
    ("efficientnet_b3", {}, 12_233_232, TORCHVISION),
    ("efficientnet_b4", {}, 19_341_616, TORCHVISION),
    ("efficientnet_b5", {}, 30_389_784, TORCHVISION),
    ("efficientnet_b6", {}, 43_040_704, TORCHVISION),
    ("efficientnet_b7", {}, 66_347_960, TORCHVISION),
    ("convnext_tiny", {}, 28_589_128, TORCHVISION),
    ("convnext_small", {}, 50_223_688, TORCHVISION),
    ("convnext_base", {}, 88_591_464, TORCHVISION),
    ("convnext_large", {}, 197_767_336, TORCHVISION),
    ("wide_resnet28_10", {}, 36_479_194, "Zagoruyko and Komodakis, 2016, Table 4 (36.5M), worked out"),
    ("densenet_bc_100_12", {}, 769_162, "Huang et al., 2016, Table 2 (0.8M), worked out"),
    ("resnet18_cifar", {}, 11_173_962, "github.com/kuangliu/pytorch-cifar, models/resnet.py"),
    ("resnet20", {}, 269_722, "He et al., 2015, Table 6 (0.27M), worked out"),
    ("resnet32", {}, 464_154, "He et al., 2015, Table 6 (0.46M), worked out"),
    ("resnet44", {}, 658_586, "He et al., 2015, Table 6 (0.66M), worked out"),
    ("resnet56", {}, 853_018, "He et al., 2015, Table 6 (0.85M), worked out"),
    ("resnet110", {}, 1_727_962, "He et al., 2015, Table 6 (1.7M), worked out"),
]
# Parameters and running statistics together.
TOTAL = [
    ("inception_v3", {}, 23_851_784),
    ("inception_v3", NO_TOP, 21_802_784),
    ("resnet50_v1", {}, 25_636_712),
    ("resnet101_v1", {}, 44_707_176),
    ("resnet152_v1", {}, 60_419_944),
    ("densenet121_keras", {}, 8_062_504),
    ("densenet121_keras", NO_TOP, 7_037_504),
    ("densenet169_keras", {}, 14_307_880),
    ("densenet201_keras", {}, 20_242_984),
    ("mobilenet_v2_keras", {}, 3_538_984),
    ("mobilenet_v2_keras", NO_TOP, 2_257_984),
    ("mobilenet_v2_keras", {"width": 0.35}, 1_691_208),
    ("mobilenet_v2_keras", {"width": 0.5}, 1_987_224),
    ("mobilenet_v2_keras", {"width": 0.75}, 2_663_064),
    ("mobilenet_v2_keras", {"width": 1.3}, 5_431_048),
    ("mobilenet_v2_keras", {"width": 1.4}, 6_156_712),
    ("mobilenet_v3_small_keras", {}, 2_554_968),
    ("mobilenet_v3_large_keras", {}, 5_507_432),
    # Keras counts the normalisation's counter too.
    ("efficientnet_b0_keras", {}, 5_330_571 - 1),
    ("efficientnet_b1_keras", {}, 7_856_239 - 1),
    ("efficientnet_b2_keras", {}, 9_177_569 - 1),
    ("efficientnet_b3_keras", {}, 12_320_535 - 1),
    ("efficientnet_b4_keras", {}, 19_466_823 - 1),
    ("efficientnet_b5_keras", {}, 30_562_527 - 1),
    ("efficientnet_b6_keras", {}, 43_265_143 - 1),
    ("efficientnet_b7_keras", {}, 66_658_687 - 1),
    ("convnext_tiny_keras", {}, 28_589_128),
    ("convnext_small_keras", {}, 50_223_688),
    ("convnext_base_keras", {}, 88_591_464),
    ("convnext_large_keras", {}, 197_767_336),
]


def sizes(name, options):
    """Return the numbers of parameters and of running statistics, computed from shapes alone."""
    images = jax.ShapeDtypeStruct((1, *models.input_shape(name)), jnp.float32)
    model = models.build(name, num_classes=models.num_classes(name), **options)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert set(variables) <= {"params", "batch_stats"}
    counts = {collection: sum(leaf.size for leaf in jax.tree.leaves(tree)) for collection, tree in variables.items()}
    return counts["params"], counts.get("batch_stats", 0)


@pytest.mark.parametrize(
    ("name", "options", "expected", "source"),
    [pytest.param(*row, marks=marks(row[0]), id=f"{row[0]}-{row[2]}") for row in TRAINABLE],
)
def test_trainable_parameters(name, options, expected, source):
    assert sizes(name, options)[0] == expected, source


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [pytest.param(*row, marks=marks(row[0]), id=f"{row[0]}-{row[2]}") for row in TOTAL],
)
def test_parameters_with_statistics_as_keras_counts_them(name, options, expected):
    assert sum(sizes(name, options)) == expected, KERAS


def test_torchvision_says_the_same():
    module = torchvision()
    rows = {name: count for name, _, count, source in TRAINABLE if source.startswith(TORCHVISION)}
    said = {
        name: module.models.get_model_weights(name.removesuffix("_torchvision"))["IMAGENET1K_V1"].meta["num_params"]
        for name in rows
    }
    assert rows == said
    assert len(rows) == 38


def test_every_model_is_counted():
    # Of these two nobody publishes a number.
    counted = {row[0] for row in TRAINABLE} | {row[0] for row in TOTAL}
    assert set(models.available()) - counted == {"simple_cnn"}
