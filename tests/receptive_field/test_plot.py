"""Pictures are drawn, in both formats, and show what they say they show."""

import numpy as np
import pytest

from cnnjax import ops
from cnnjax.errors import UsageError
from cnnjax.receptive_field import GaussianFit, Growth, plot, plot_growth, receptive_field, trace

KERNEL = np.random.default_rng(0).uniform(0.5, 1.5, (3, 3, 1, 1)).astype(np.float32)


def net(x):
    return ops.max_pool(ops.conv2d(x, KERNEL), 2)


@pytest.fixture
def heat():
    rows, columns = np.mgrid[:16, :20]
    return np.exp(-((rows - 8) ** 2) / 8 - (columns - 11) ** 2 / 8)


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_map_with_box_contour_and_section(tmp_path, heat, suffix, start):
    field = receptive_field(net, (1, 16, 20, 1))
    figure = plot(heat, field, image=np.zeros((16, 20, 3)), path=tmp_path / f"field{suffix}")
    assert (tmp_path / f"field{suffix}").read_bytes().startswith(start)
    left, right, below = figure.axes[:3]
    box = next(patch for patch in left.patches if patch.get_label().startswith("theoretical"))
    top, first = (interval[0] for interval in field.interval((4, 5)) if interval)
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (first - 0.5, top - 0.5, 4, 4)
    ellipse = next(patch for patch in left.patches if type(patch).__name__ == "Ellipse")
    assert ellipse.get_center() == pytest.approx((11, 8), abs=0.01)
    assert ellipse.width == pytest.approx(4 * 2, rel=0.01)
    assert [axes.get_xlabel() for axes in (left, right, below)] == [
        "column (pixels)",
        "row (pixels)",
        "column (pixels)",
    ]
    for axis, (section, middle) in enumerate([(right, 8), (below, 11)]):
        measured, gaussian, *edges = section.lines
        np.testing.assert_allclose(measured.get_ydata(), heat.sum(1 - axis) / heat.sum(1 - axis).max())
        peak = gaussian.get_xdata()[np.argmax(gaussian.get_ydata())]
        assert (len(edges), abs(peak - middle) < 0.1) == (3, True)
        limits = edges[0].get_xdata()[0] + 0.5, edges[1].get_xdata()[0] - 0.5
        assert limits == field.interval((4, 5))[axis]


def test_a_box_without_measurement(tmp_path):
    figure = plot(None, receptive_field(net, (1, 16, 20, 1)), index=(0, 0), path=tmp_path / "box.png")
    assert len(figure.axes) == 1
    frame, _, box = figure.axes[0].patches
    assert (frame.get_width(), frame.get_height(), box.get_y()) == (20, 16, -1.5)
    assert figure.axes[0].get_ylim()[1] < -1.5  # what hangs over the image is not cut off


def test_a_box_far_larger_than_the_image_leaves_the_image_large():
    def deep(x):
        for _ in range(60):
            x = ops.conv2d(x, KERNEL[:, :1])
        return x

    figure = plot(None, receptive_field(deep, (1, 16, 20, 1)), index=(4, 3))
    (axes,) = figure.axes
    assert np.diff(axes.get_xlim())[0] < 1.4 * 20
    assert -np.diff(axes.get_ylim())[0] < 1.7 * 16
    tint, box = axes.patches[1:]
    assert (tint.get_height(), box.get_height(), box.get_y()) == (121, 121, 4 - 60 - 0.5)
    assert box.get_label() == "theoretical, 121 x 1\nbeyond the image by 56 up, 49 down"


def test_growth_draws_no_line_through_a_shortcut():
    def block(x):
        return ops.conv2d(ops.conv2d(x, KERNEL), KERNEL) + ops.conv2d(x, KERNEL[:1, :1])

    rows = trace(lambda x: block(block(x)), (1, 16, 20, 1))
    line, aside, said = plot_growth(rows).axes[0].lines
    assert list(zip(*line.get_data())) == [(0, 3), (1, 5), (3, 7), (4, 9)]
    assert (list(zip(*aside.get_data())), aside.get_linestyle()) == ([(2, 1), (5, 5)], "None")
    assert said.get_label().startswith("hollow")


def test_growth_with_and_without_measurement(tmp_path):
    figure = plot_growth(trace(net, (1, 16, 20, 1)), path=tmp_path / "growth.svg")
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[3, 4]]
    rows = [Growth("net/a", "convolution 3x3", (3, 3), (2.0, 2.0), GaussianFit(1.0, (0, 0), (1, 1), 1.0))]
    assert len(plot_growth(rows).axes[0].lines) == 2


def test_growth_of_many_layers_that_differ_by_axis_stays_readable():
    def deep(x):
        for _ in range(50):
            x = ops.conv2d(x, KERNEL[:, :1])
        return x.mean((1, 2)) @ np.ones((1, 3), np.float32)

    figure = plot_growth(trace(deep, (1, 16, 20, 1)))
    axes = figure.axes[0]
    assert [line.get_ydata()[-1] for line in axes.lines] == [101, 1]  # rows and columns; no row for the mean and after
    assert len(axes.get_xticklabels()) <= 42
    assert figure.get_figwidth() <= 15


def test_a_photo_is_a_pale_grey_backdrop():
    photo = np.zeros((16, 20, 3), np.uint8)
    photo[:8] = 255
    figure = plot(None, receptive_field(net, (1, 16, 20, 1)), image=photo)
    shown = figure.axes[0].images[0].get_array()
    assert (shown.shape, round(float(shown.max()), 6), float(shown.min())) == ((16, 20), 0.95, 0.25)


@pytest.mark.parametrize(("name", "message"), [("x.jpg", ".png or .svg"), ("no/such/x.png", "an existing folder")])
def test_files_that_cannot_be_drawn(tmp_path, heat, name, message):
    with pytest.raises(UsageError, match=message):
        plot(heat, receptive_field(net, (1, 16, 20, 1)), path=tmp_path / name)
    with pytest.raises(UsageError, match="at least one layer"):
        plot_growth([])
