"""Preprocessing against torchvision's presets and Keras's own functions."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax.errors import UsageError
from cnnjax.pretrained.preprocessing import Preprocess, preprocess, preprocess_names
from tests.pretrained.torchvision_oracle import torchvision

# Name here, weights there; the two that torchvision remaps inside the model are marked.
PRESETS = {
    "alexnet": ("AlexNet", "IMAGENET1K_V1", False),
    "vgg16": ("VGG16", "IMAGENET1K_V1", False),
    "vgg16:features": ("VGG16", "IMAGENET1K_FEATURES", False),
    "vgg19_bn": ("VGG19_BN", "IMAGENET1K_V1", False),
    "resnet18": ("ResNet18", "IMAGENET1K_V1", False),
    "resnet50": ("ResNet50", "IMAGENET1K_V1", False),
    "resnet50:v2": ("ResNet50", "IMAGENET1K_V2", False),
    "resnet101:v2": ("ResNet101", "IMAGENET1K_V2", False),
    "resnet152:v2": ("ResNet152", "IMAGENET1K_V2", False),
    "wide_resnet101_2:v2": ("Wide_ResNet101_2", "IMAGENET1K_V2", False),
    "mobilenet_v3_small": ("MobileNet_V3_Small", "IMAGENET1K_V1", False),
    "efficientnet_b0": ("EfficientNet_B0", "IMAGENET1K_V1", False),
    "efficientnet_b1:v2": ("EfficientNet_B1", "IMAGENET1K_V2", False),
    "efficientnet_b7": ("EfficientNet_B7", "IMAGENET1K_V1", False),
    "convnext_tiny": ("ConvNeXt_Tiny", "IMAGENET1K_V1", False),
    "convnext_large": ("ConvNeXt_Large", "IMAGENET1K_V1", False),
    "googlenet_torchvision": ("GoogLeNet", "IMAGENET1K_V1", True),
    "inception_v3_torchvision": ("Inception_V3", "IMAGENET1K_V1", True),
}
KERAS = {"vgg16:keras": "vgg16", "vgg19:keras": "vgg19", "resnet50_v1": "resnet50", "inception_v3": "inception_v3"}
KERAS |= {"densenet121_keras": "densenet", "mobilenet_v2_keras": "mobilenet_v2", "convnext_tiny_keras": "convnext"}
KERAS |= {"mobilenet_v3_small_keras": "mobilenet_v3", "efficientnet_b0_keras": "efficientnet"}


def photographs(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), np.uint8)


def theirs(name, images):
    """Return what torchvision makes of the images."""
    torch = pytest.importorskip("torch")
    net, member, remapped = PRESETS[name]
    preset = getattr(torchvision().models, f"{net}_Weights")[member].transforms()
    want = preset(torch.tensor(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    if remapped:  # GoogLeNet._transform_input and Inception3._transform_input
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        want = want * (std / 0.5) + (mean - 0.5) / 0.5
    return want


def close(name, got, want):
    """Hold resized images to 1e-5, but for a pixel or two of a million that lie at a half before they are rounded."""
    assert got.dtype == np.float32
    assert got.shape == want.shape
    level = 1.01 / 255 / np.array(preprocess(name).std)
    error = np.abs(got - want)
    # Cubic weights are negative too: more sums come near to a half.
    assert (error > 1e-5).sum() <= (6 if preprocess(name).interpolation == "bicubic" else 3)
    assert (error < level).all()


@pytest.mark.parametrize("size", [(375, 500), (501, 333)])
@pytest.mark.parametrize("name", ["resnet50", "resnet50:v2", "inception_v3_torchvision", "efficientnet_b0"])
def test_resized_as_in_torchvision(name, size):
    images = photographs(*size)
    close(name, np.array(jax.jit(preprocess(name))(images)), theirs(name, images))


@pytest.mark.parametrize("name", PRESETS)
def test_values_as_in_torchvision(name):
    rule = preprocess(name)
    assert rule.resize is not None
    # Already of the right size in one direction, so that nothing is resized and each pixel counts.
    images = photographs(rule.resize, rule.resize + 37, seed=1)
    np.testing.assert_allclose(rule(images), theirs(name, images), atol=1e-5)


@pytest.mark.parametrize("size", [(3, 200), (64, 64), (1, 1), (1031, 517), (256, 257)])
def test_odd_sizes_give_what_torchvision_gives(size):
    images = photographs(*size)
    got = np.array(preprocess("resnet18")(images))
    assert got.shape == (2, 224, 224, 3)
    close("resnet18", got, theirs("resnet18", images))


@pytest.mark.parametrize("name", ["resnet50", "inception_v3_torchvision"])
def test_pillows_resizing_differs_by_at_most_a_level(name):
    torch = pytest.importorskip("torch")
    image = photographs(375, 500)[0]
    net, member, _ = PRESETS[name]
    preset = getattr(torchvision().models, f"{net}_Weights")[member].transforms()
    want = preset(Image.fromarray(image)).permute(1, 2, 0).numpy()
    mean, std = (torch.tensor(values).numpy() for values in (preset.mean, preset.std))
    rule = preprocess(name)
    got = np.array(rule.resize_and_crop(image[None]))[0]
    levels = np.abs(got - (want * std + mean) * 255)
    assert levels.max() < 1.01
    assert levels.mean() < 0.25  # Pillow rounds to 8 bits between its two passes: every sixth value is one off


def test_every_torchvision_rule_is_data_of_a_preset():
    for name, (net, member, remapped) in PRESETS.items():
        preset = getattr(torchvision().models, f"{net}_Weights")[member].transforms()
        rule = preprocess(name)
        assert [rule.resize] == preset.resize_size, name
        assert [rule.crop] == preset.crop_size, name
        assert (rule.interpolation, rule.antialias) == (preset.interpolation.value, preset.antialias), name
        if not remapped:
            np.testing.assert_allclose(rule.mean, preset.mean)
            np.testing.assert_allclose(rule.std, preset.std)


def test_values_as_in_keras(tmp_path):
    images = photographs(24, 31)
    np.save(tmp_path / "images.npy", images)
    code = """
import json, sys, numpy as np, keras
names, folder = json.loads(sys.argv[1]), sys.argv[2]
images = np.load(folder + "/images.npy").astype("float32")
for name in set(names.values()):
    np.save(f"{folder}/{name}.npy", getattr(keras.applications, name).preprocess_input(images.copy()))
"""
    env = {**os.environ, "KERAS_BACKEND": "numpy"}
    subprocess.run([sys.executable, "-c", code, json.dumps(KERAS), str(tmp_path)], env=env, check=True)
    for name, module in KERAS.items():
        want = np.load(tmp_path / f"{module}.npy")
        np.testing.assert_allclose(jax.jit(preprocess(name).normalize)(images), want, atol=1e-5, err_msg=name)


def test_uint8_does_not_wrap():
    images = np.zeros((1, 256, 256, 3), np.uint8)
    black = np.array(preprocess("vgg16:keras")(images))[0, 0, 0]
    np.testing.assert_allclose(black, [-103.939, -116.779, -123.68], rtol=1e-6)
    assert np.array(preprocess("inception_v3").normalize(images + np.uint8(255))).max() == 1.0


def test_blue_comes_first_where_it_did_in_caffe():
    images = np.zeros((1, 256, 256, 3), np.uint8)
    images[..., 0] = 200  # red
    red = np.array(preprocess("resnet50_v1")(images))[0, 0, 0]
    np.testing.assert_allclose(red, [-103.939, -116.779, 200 - 123.68], rtol=1e-5)


def test_depths_share_their_rules():
    assert preprocess("resnet101_v1") == preprocess("resnet50_v1") == preprocess("vgg19:keras")
    assert preprocess("resnet34") == preprocess("vgg13_bn") == preprocess("alexnet")
    assert len(preprocess_names()) == len(set(preprocess_names())) >= 20


def test_mistakes_are_said():
    with pytest.raises(
        ValueError, match="expected interpolation bilinear or bicubic, and channels RGB, BGR or grey, got cubic and RGB"
    ):
        Preprocess(interpolation="cubic")
    with pytest.raises(
        ValueError, match=r"expected a mean and a std for each channel of grey, got \(0\.5,\) and \(1, 1"
    ):
        Preprocess(channels="grey", mean=(0.5,), std=(1, 1, 1))
    with pytest.raises(UsageError, match=r"unknown preprocessing 'resnet5': did you mean 'resnet50'\?"):
        preprocess("resnet5")
    with pytest.raises(ValueError, match=r"expected images \[N, H, W, 3\], got shape \(8, 8, 3\)\. Add a batch axis"):
        preprocess("resnet50")(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(TypeError, match="expected uint8 pixels, got float32"):
        preprocess("resnet50")(np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(UsageError, match="expected images with pixels"):
        preprocess("resnet50")(np.zeros((1, 0, 8, 3), np.uint8))


@pytest.mark.parametrize("size", [(1, 901), (901, 1), (3, 400)])
def test_a_very_long_image_is_resized_no_further_than_it_is_kept(size):
    images = photographs(*size)
    whole = Preprocess(resize=24, crop=16).resized(*size)
    top, left = (round((side - 16) / 2) for side in whole)
    found = np.array(Preprocess(resize=24, crop=16).resize_and_crop(images))
    for image, array in zip(found, images):
        resized = Image.fromarray(array).resize(whole[::-1], Image.Resampling.BILINEAR)
        wanted = np.array(resized.crop((left, top, left + 16, top + 16)), float)
        assert np.abs(image - wanted).max() <= 1
    program = jax.jit(Preprocess()).lower(jax.ShapeDtypeStruct((1, 5000, 1, 3), np.uint8)).compile()
    assert program.memory_analysis().temp_size_in_bytes < 16 * 2**20  # all of it, resized, would be 3.9 GB


# Of these, rounding in another order gets a pixel or two of four sizes, and of the second 94, to another level.
@pytest.mark.parametrize(
    "size",
    [(375, 500), (3, 200), (501, 333), (1031, 517), (300, 400), (480, 640), (331, 257), (211, 603), (600, 800)],
)
def test_resized_to_the_last_level_as_in_torch(size):
    torch = pytest.importorskip("torch")
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("PyTorch rounds otherwise where it does not fuse products and sums")
    jax.config.update("jax_disable_most_optimizations", False)  # as users have it: products and sums are fused
    images, rule = photographs(*size)[:1], preprocess("resnet50")
    tensor = torch.tensor(images).permute(0, 3, 1, 2).float()
    resized = rule.resized(*size)
    whole = torch.nn.functional.interpolate(tensor, resized, mode="bilinear", antialias=True)
    want = torch.round(whole).permute(0, 2, 3, 1).numpy()
    top, left = (round((side - 224) / 2) for side in resized)
    np.testing.assert_array_equal(rule.resize_and_crop(images), want[:, top : top + 224, left : left + 224])
