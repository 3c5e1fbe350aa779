"""Measured fields: the gradient is the right one, the fits are, and Luo et al.'s findings come out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax.errors import UsageError
from cnnjax.receptive_field import effective_size, fit_gaussian, growth, measure, receptive_field


class Stack(nn.Module):
    """Convolutions without biases; linear unless `relu`."""

    depth: int
    features: int = 16
    relu: bool = False

    @nn.compact
    def __call__(self, x):
        for i in range(self.depth):
            x = nn.Conv(self.features, (3, 3), use_bias=False, name=f"conv{i}")(x)
            x = nn.relu(x) if self.relu else x
        return x


def binomial(depth):
    """Return the mean square of the gradient of a linear stack: the convolution of its boxes."""
    line = np.ones(1)
    for _ in range(depth):
        line = np.convolve(line, np.ones(3) / 3)
    return np.multiply.outer(line, line)


def test_a_single_convolutions_gradient_is_its_kernel():
    kernel = np.random.default_rng(0).normal(size=(3, 5, 1, 1)).astype(np.float32)

    def net(x):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    for unit, (top, left) in {"center": (3, 4), (2, 3): (1, 1)}.items():
        heat = measure(net, (1, 9, 13, 1), unit=unit, samples=1)
        expected = np.abs(kernel[..., 0, 0]) / np.abs(kernel).sum()
        np.testing.assert_allclose(heat[top : top + 3, left : left + 5], expected, rtol=1e-5)
        assert heat.sum() == pytest.approx(1)
        assert np.count_nonzero(heat) == 15


@pytest.mark.parametrize("relu", [False, True])
def test_nothing_outside_the_theoretical_field_matters(relu):
    model, shape = Stack(3, 4, relu), (13, 11, 2)
    heat = measure(model, shape, samples=2, unit=(4, 9))
    rows, columns = receptive_field(model, shape).interval((4, 9))
    assert rows is not None
    assert columns is not None
    (top, bottom), (left, right) = rows, columns
    inside = heat[top : bottom + 1, left : right + 1]
    assert inside.sum() == pytest.approx(1)
    assert (inside > 0).mean() > 0.9


def test_given_variables_and_images_are_what_is_measured():
    model, images = Stack(2, 4, relu=True), np.random.default_rng(0).normal(size=(3, 9, 9, 1)).astype(np.float32)
    variables = model.init(jax.random.key(5), images[:1])
    heat = measure(model, (9, 9, 1), variables=variables, images=images, samples=2, key=jax.random.key(1))
    expected = np.zeros((9, 9))
    for sample in range(2):
        weights_key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), sample), 1)
        weights = jax.random.normal(weights_key, (1, 4))

        def value(x, weights=weights):
            return (model.apply(variables, x)[:, 4, 4] * weights).sum()

        expected += np.abs(np.asarray(jax.grad(value)(jnp.asarray(images[sample : sample + 1]))))[0, ..., 0]
    np.testing.assert_allclose(heat, expected / expected.sum(), rtol=1e-4, atol=1e-8)


def test_a_layer_inside_is_measured_by_its_name():
    model, shape = Stack(3, 4, relu=True), (11, 11, 1)
    for name, width in (("conv0", 3), ("conv1", 5)):
        rows = np.flatnonzero(measure(model, shape, output=name, samples=2).sum(1))
        assert (rows[0], rows[-1]) == (5 - width // 2, 5 + width // 2)


def test_the_gaussian_that_went_in_comes_out():
    rows, columns = np.mgrid[:50, :60]
    hill = 0.3 * np.exp(-(((rows - 20.3) / 4.5) ** 2) / 2 - ((columns - 31) / 7) ** 2 / 2)
    fit = fit_gaussian(hill)
    np.testing.assert_allclose(fit.sigma, (4.5, 7), rtol=1e-6)
    np.testing.assert_allclose(fit.centre, (20.3, 31), rtol=1e-6)
    assert fit.amplitude == pytest.approx(0.3)
    assert fit.r_squared == pytest.approx(1)
    np.testing.assert_allclose(fit(rows, columns), hill, atol=1e-8)
    np.testing.assert_allclose(effective_size(hill, 0.6827), (9, 14), rtol=0.02)
    np.testing.assert_allclose(effective_size(hill), (18, 28), rtol=0.02)


def test_a_flat_square_is_a_poor_gaussian():
    square = np.zeros((21, 21))
    square[5:16, 5:16] = 1
    assert fit_gaussian(square).r_squared < 0.95
    assert effective_size(square, 0.5) == pytest.approx((5.5, 5.5))


def test_the_theory_of_a_linear_stack():
    """The mean square of the gradient is the n-fold convolution of a box with itself, as Luo et al. say."""
    heat = measure(Stack(4, 8), (9, 9, 8), samples=60, statistic="square")
    expected = binomial(4)
    assert np.corrcoef(heat.ravel(), expected.ravel())[0, 1] > 0.98
    # Four boxes are no Gaussian yet: the one fitted to them is 5 % wider than their standard deviation.
    assert fit_gaussian(heat).sigma[0] == pytest.approx(fit_gaussian(expected).sigma[0], rel=0.08)


def test_growth_gives_a_row_a_layer():
    rows = growth(Stack(2, 4, relu=True), (9, 9, 1), samples=2)
    assert [(row.path, row.theoretical) for row in rows] == [("Stack/conv0", (3, 3)), ("Stack/conv1", (5, 5))]
    assert all(0 < row.effective[0] < row.theoretical[0] for row in rows)


@pytest.mark.slow
def test_the_effective_field_is_gaussian_and_grows_with_the_root_of_depth():
    """Luo et al., 2016: R² > 0.99, and sigma / sqrt(depth) the same from 5 to 40 layers, within 5 %."""
    ratios = []
    for depth in (5, 10, 20, 40):
        size = 2 * depth + 1
        fit = fit_gaussian(measure(Stack(depth), (size, size, 16), samples=100))
        assert fit.r_squared > 0.99
        ratios.append(np.mean(fit.sigma) / np.sqrt(depth))
    np.testing.assert_allclose(ratios, np.mean(ratios), rtol=0.05)
    # |g| spreads like the root of g²: sqrt(2) wider than the sum of boxes of variance 2/3.
    np.testing.assert_allclose(ratios, np.sqrt(4 / 3), rtol=0.05)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"unit": "middle"}, UsageError, 'expected unit "center"'),
        ({"unit": (9, 0)}, UsageError, "expected a unit of"),
        ({"samples": 0}, UsageError, "at least 1 sample"),
        ({"statistic": "rms"}, UsageError, "unknown statistic"),
        ({"images": np.zeros((2, 5, 5, 1))}, UsageError, "expected images of shape"),
    ],
)
def test_mistakes_are_named(options, error, message):
    with pytest.raises(error, match=message):
        measure(Stack(1, 2), (9, 9, 1), **{"samples": 1, **options})


def test_a_dead_unit_is_an_error():
    with pytest.raises(ValueError, match="zero everywhere"):
        measure(lambda x: jax.nn.relu(-1 - x**2), (1, 4, 4, 1), samples=1)
    with pytest.raises(ValueError, match="at least 2x2"):
        fit_gaussian(np.ones((5, 5)))
    with pytest.raises(ValueError, match="between 0 and 1"):
        effective_size(np.ones((5, 5)), 1.5)


def test_mistakes_of_measuring_are_one_sentence():
    def function(x):
        return x * 2

    with pytest.raises(UsageError, match=r"whole numbers, got \(1.5, 2\)"):
        measure(function, (1, 5, 6, 1), samples=1, unit=(1.5, 2))
    assert np.argwhere(measure(function, (1, 5, 6, 1), samples=1, unit=np.array([1, 2]))).tolist() == [[1, 2]]
    for call in (measure, growth):
        with pytest.raises(UsageError, match="expected a linen module for variables, got function"):
            call(function, (1, 5, 6, 1), samples=1, variables={"params": {}})


@pytest.mark.parametrize(
    ("heat", "message"),
    [
        (np.zeros((5, 6)), r"shape \(5, 6\) with zeros alone"),
        (np.full((5, 6), np.nan), "not finite"),
        (np.ones(7), r"got shape \(7,\)\."),
    ],
)
def test_a_map_without_mass_has_no_size(heat, message):
    with pytest.raises(ValueError, match=message):
        effective_size(heat)
