"""Pictures of receptive fields; matplotlib is loaded when one is drawn."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax.errors import UsageError
from cnnjax.receptive_field.field import ReceptiveField
from cnnjax.receptive_field.gaussian import GaussianFit, effective_size, fit_gaussian
from cnnjax.receptive_field.measured import Growth
from cnnjax.receptive_field.theory import Layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours of Okabe and Ito, which the colour-blind tell apart; every line has a style of its own too.
_BOX, _FIT, _MEASURED, _THEORY = "#D55E00", "#009E73", "#0072B2", "#D55E00"
_SUFFIXES = (".png", ".svg")
_COLUMNS, _IMAGE = "#CC79A7", "#e6e6e6"
_WIDEST, _MOST_NAMES = 15.0, 42  # inches of a growth chart, and layers named below it
_MARGIN = 0.15  # of the image's longer side, at the most, around it
_GAUSSIAN_95 = 2.0  # standard deviations either side of the middle that hold 95.45 %


def plot(
    heat: np.ndarray | None,
    field: ReceptiveField,
    *,
    index: Sequence[int] | None = None,
    image: Any = None,
    path: str | pathlib.Path | None = None,
    title: str | None = None,
) -> "Figure":
    """Draw what one unit reads: the measured map, the theoretical box, a Gaussian's contour, and both sections.

    What a unit reads of padding is tinted. It is cut off a little way from the image, and the legend says how much.

    Args:
      heat: The unit's map `[H, W]` from `measure`; None draws the box alone.
      field: The field from `receptive_field`, for the same value.
      index: The unit; None for the middle one.
      image: Background, `[H, W]` or `[H, W, 3]`, uint8 or floats from 0 to 1.
      path: File to write, `.png` or `.svg`; None to write none.
      title: Words above; None for the value's name.
    Returns:
      The figure.
    Raises:
      UsageError: If the file's name ends in neither, or there are not two spatial axes.
    """
    if len(field.input_size) != 2:
        raise UsageError(f"plot: expected a field along two axes, got {len(field.input_size)}.")
    index = tuple(count // 2 for count in field.units) if index is None else tuple(index)
    if heat is None:
        figure = _figure(5.2, 4.8)
        _draw_map(figure.subplots(), heat, field, index, image, None)
    else:
        figure, fit = _figure(10.4, 6.0), _fitted(heat)
        panels = figure.subplot_mosaic([["map", "0"], ["map", "1"]], width_ratios=(1.25, 1))
        _draw_map(panels["map"], heat, field, index, image, fit)
        for axis in (0, 1):
            _draw_section(panels[str(axis)], heat, field, index, fit, axis)
    place = f"unit {index} of {' x '.join(map(str, field.units))}" if field.units else "each unit"
    figure.suptitle(title or f"{field.name}, {place}", fontsize=11)
    return _written(figure, path)


def plot_growth(
    rows: Sequence[Layer] | Sequence[Growth], *, path: str | pathlib.Path | None = None, title: str | None = None
) -> "Figure":
    """Draw how the field grows from layer to layer: the theoretical one, and the effective one where it was measured.

    Layers without rows and columns of units, as after a global pool, have no place in it. Those that see less than one
    before them, as a shortcut's convolution does, are on a branch and no line goes through them.

    Args:
      rows: From `trace`, or from `growth` with what was measured.
      path: File to write, `.png` or `.svg`; None to write none.
      title: Words above.
    Returns:
      The figure.
    """
    shown: list[Layer | Growth] = [
        row for row in rows if isinstance(row, Growth) or any(step is not None for step in row.field.stride)
    ]
    if not shown:
        raise UsageError("plot_growth: expected at least one layer with units in space, got none.")
    figure = _figure(min(max(6.0, 1.6 + 0.32 * len(shown)), _WIDEST), 4.8)
    axes = figure.subplots()
    places, step = np.arange(len(shown)), -(-len(shown) // _MOST_NAMES)
    size = 5 if step == 1 else 3
    theory = np.array([row.theoretical if isinstance(row, Growth) else row.field.size for row in shown])
    alike = np.array_equal(theory[:, 0], theory[:, -1])
    name = "theoretical size" if alike else "theoretical size, rows"
    _draw_sizes(axes, theory[:, 0], theory[:, 0], "s--", _THEORY, name, size)
    if not alike:
        _draw_sizes(axes, theory[:, -1], theory[:, -1], "^:", _COLUMNS, "theoretical size, columns", size)
    if all(isinstance(row, Growth) for row in shown):
        measured = np.array([row.effective[0] for row in shown if isinstance(row, Growth)])
        label = "effective size" + ("" if alike else ", rows") + " (95.45 % of |gradient|)"
        _draw_sizes(axes, measured, theory[:, 0], "o-", _MEASURED, label, size)
    if _on_branch(theory[:, 0]).any() or _on_branch(theory[:, -1]).any():
        axes.plot([], [], "s", color="black", mfc="none", ms=size, label="hollow: on a branch that sees less")
    names = [_short(row) for row in shown[::step]]
    axes.set_xticks(places[::step], names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_ylabel("pixels of the image")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.suptitle(title or "Receptive field after each layer", fontsize=11)
    return _written(figure, path)


def _on_branch(sizes: np.ndarray) -> np.ndarray:
    """Say which layers see less than one before them does: those of a shortcut, or of a module's narrow branch."""
    return sizes < np.maximum.accumulate(sizes)


def _draw_sizes(axes: Any, sizes: np.ndarray, theory: np.ndarray, style: str, colour: str, label: str, marker: int):
    """Draw a line through the layers one after another, and beside it those on branches."""
    places, aside = np.arange(len(sizes)), _on_branch(theory)
    axes.plot(places[~aside], sizes[~aside], style, color=colour, label=label, markersize=marker, lw=1.3)
    if aside.any():
        axes.plot(places[aside], sizes[aside], style[0], color=colour, mfc="none", markersize=marker)


def _short(row: Layer | Growth) -> str:
    name = "/".join(row.path.split("/")[1:])
    return f"{name}: {row.kind}" if name and len(name) + len(row.kind) < 36 else name or row.kind


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A figure of its own instead of pyplot's: no global state, no display, no window.
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)  # type: ignore[union-attr]
    FigureCanvasAgg(figure)
    return figure


def _written(figure: "Figure", path: str | pathlib.Path | None) -> "Figure":
    if path is not None:
        check_path(path)
        figure.savefig(path)
    return figure


def check_path(path: str | pathlib.Path) -> None:
    """Refuse a file that no picture can be written to, before anything is measured."""
    path = pathlib.Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"plot: expected a file ending in .png or .svg, got {str(path)!r}.")
    if not path.parent.is_dir():
        raise UsageError(f"plot: expected a file in an existing folder, got {str(path)!r}. Make {path.parent} first.")


def _fitted(heat: np.ndarray) -> GaussianFit | None:
    try:
        return fit_gaussian(heat)
    except (ValueError, np.linalg.LinAlgError):
        return None


def _draw_map(axes: Any, heat: Any, field: ReceptiveField, index: tuple[int, ...], image: Any, fit: Any) -> None:
    from matplotlib.patches import Ellipse, Rectangle

    height, width = field.input_size
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    frame = Rectangle((-0.5, -0.5), width, height, facecolor=_IMAGE, edgecolor="black", lw=0.8)
    frame.set(label="image", zorder=-1)
    axes.add_patch(frame)
    if image is not None:
        axes.imshow(_backdrop(image), cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
    if heat is not None:
        # Single pixels stand out by far; scaled by the very largest, all others would look alike.
        size = np.abs(heat)
        scaled = np.clip(size / np.quantile(size[size > 0], 0.99), 0, 1)
        alpha = 1.0 if image is None else np.clip(1.3 * scaled**0.5, 0, 0.85)
        shown = axes.imshow(scaled, cmap="cividis", extent=extent, alpha=alpha, vmin=0, vmax=1, interpolation="nearest")
        bar = axes.figure.colorbar(shown, ax=axes, label="mean |gradient| (1: its 99th percentile)", shrink=0.85)
        bar.solids.set_alpha(1)
    axes.set_aspect("equal")
    _draw_box(axes, field, index)
    if fit is not None:
        (cy, cx), (sy, sx) = fit.centre, fit.sigma
        style = {"fill": False, "edgecolor": _FIT, "lw": 2, "ls": "--"}
        label = f"Gaussian, 2σ: σ = {sy:.1f} x {sx:.1f}"
        axes.add_patch(Ellipse((cx, cy), 2 * _GAUSSIAN_95 * sx, 2 * _GAUSSIAN_95 * sy, **style, label=label))
    axes.set_xlabel("column (pixels)")
    axes.set_ylabel("row (pixels)")
    columns = 1 if heat is None else 3
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", fontsize=8, ncols=columns)


def _draw_box(axes: Any, field: ReceptiveField, index: tuple[int, ...]) -> None:
    """Draw the theoretical box, and no more around the image than is of use."""
    from matplotlib.patches import Rectangle

    height, width = field.input_size
    rows, columns = field.interval(index, clip=False)
    beyond = dict.fromkeys(("up", "down", "left", "right"), 0)
    if rows is not None and columns is not None:
        (top, bottom), (left, right) = rows, columns
        beyond = {"up": -top, "down": bottom - height + 1, "left": -left, "right": right - width + 1}
        tall, wide = bottom - top + 1, right - left + 1
        corner = left - 0.5, top - 0.5
        axes.add_patch(Rectangle(corner, wide, tall, facecolor=_BOX, alpha=0.15, zorder=-2))
        over = ", ".join(f"{pixels} {way}" for way, pixels in beyond.items() if pixels > 0)
        label = f"theoretical, {tall} x {wide}" + (f"\nbeyond the image by {over}" if over else "")
        axes.add_patch(Rectangle(corner, wide, tall, fill=False, edgecolor=_BOX, lw=2, label=label))
    margin = _MARGIN * max(height, width)
    up, down, left, right = (min(max(pixels, 0) + 1, margin) + 1 for pixels in beyond.values())
    axes.set_xlim(-0.5 - left, width - 0.5 + right)
    axes.set_ylim(height - 0.5 + down, -0.5 - up)


def _backdrop(image: Any) -> np.ndarray:
    """Return an image as pale grey, `[H, W]` from 0 to 1, on which the colours of a map and the lines stand out."""
    image = np.asarray(image)
    grey = image.astype(float) / (255 if image.dtype == np.uint8 else 1)
    if grey.ndim == 3:
        grey = grey @ (0.299, 0.587, 0.114) if grey.shape[-1] == 3 else grey[..., 0]
    return 0.25 + 0.7 * np.clip(grey, 0, 1)


def _draw_section(axes: Any, heat: np.ndarray, field: ReceptiveField, index: tuple[int, ...], fit: Any, axis: int):
    name, profile = ("row", "column")[axis], np.abs(heat).sum(1 - axis)
    places, others = np.arange(len(profile)), np.arange(heat.shape[1 - axis])
    axes.plot(places, profile / profile.max(), "-", color=_MEASURED, lw=2, label=f"measured, {name}s' sums")
    if fit is not None:
        fine = np.linspace(0, len(profile) - 1, 400)
        hill = fit(fine[:, None], others[None]) if axis == 0 else fit(others[None], fine[:, None])
        label = f"Gaussian, R² = {fit.r_squared:.3f}"
        axes.plot(fine, hill.sum(1) / profile.max(), "--", color=_FIT, lw=2, label=label)
    interval = field.interval(index)[axis]
    if interval is not None:
        for edge in (interval[0] - 0.5, interval[1] + 0.5):
            axes.axvline(edge, color=_BOX, ls=":", lw=2)
        label = f"theoretical, {name}s {interval[0]} to {interval[1]}"
        axes.plot([], [], ":", color=_BOX, lw=2, label=label)
    axes.set_title(f"95.45 % within {effective_size(heat)[axis]:.1f} {name}s", fontsize=10)
    axes.set_xlabel(f"{name} (pixels)")
    axes.set_ylabel("share of the largest")
    axes.set_ylim(0, 1.6)  # room for the legend
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", fontsize=8, framealpha=0.9)
