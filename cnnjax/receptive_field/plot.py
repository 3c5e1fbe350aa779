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
    """Draw what one unit reads: the measured map, the theoretical box, a Gaussian's contour, and a section.

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
    figure = _figure(9.6 if heat is not None else 5.2, 4.6)
    axes = figure.subplots(1, 2, width_ratios=(1.25, 1)) if heat is not None else [figure.subplots()]
    fit = None if heat is None else _fitted(heat)
    _draw_map(axes[0], heat, field, index, image, fit)
    if heat is not None:
        _draw_section(axes[1], heat, field, index, fit)
    place = ", ".join(map(str, index))
    figure.suptitle(title or f"{field.name}, unit ({place}) of {' x '.join(map(str, field.units))}", fontsize=11)
    return _written(figure, path)


def plot_growth(
    rows: Sequence[Layer] | Sequence[Growth], *, path: str | pathlib.Path | None = None, title: str | None = None
) -> "Figure":
    """Draw how the field grows from layer to layer: the theoretical one, and the effective one where it was measured.

    Args:
      rows: From `trace`, or from `growth` with what was measured.
      path: File to write, `.png` or `.svg`; None to write none.
      title: Words above.
    Returns:
      The figure.
    """
    if not rows:
        raise UsageError("plot_growth: expected at least one layer, got none.")
    figure = _figure(max(6.0, 1.6 + 0.32 * len(rows)), 4.8)
    axes = figure.subplots()
    places = np.arange(len(rows))
    theory = [row.theoretical[0] if isinstance(row, Growth) else row.field.size[0] for row in rows]
    axes.plot(places, theory, "s--", color=_THEORY, label="theoretical size", markersize=5)
    measured = [row for row in rows if isinstance(row, Growth)]
    if measured:
        effective = [row.effective[0] for row in measured]
        axes.plot(
            places, effective, "o-", color=_MEASURED, label="effective size (95.45 % of |gradient|)", markersize=5
        )
    axes.set_xticks(places, [_short(row) for row in rows], rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_ylabel("rows of the image (pixels)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.suptitle(title or "Receptive field after each layer", fontsize=11)
    return _written(figure, path)


def _short(row: Layer | Growth) -> str:
    name = "/".join(row.path.split("/")[1:])
    return f"{name}: {row.kind}" if name and len(name) + len(row.kind) < 36 else name or row.kind


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A figure of its own instead of pyplot's: no global state, no display, no window.
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _written(figure: "Figure", path: str | pathlib.Path | None) -> "Figure":
    if path is not None:
        check_path(path)
        figure.savefig(path)
    return figure


def check_path(path: str | pathlib.Path) -> None:
    """Refuse a file that no picture can be written to, before anything is measured.

    Raises:
      UsageError: If its name ends in neither `.png` nor `.svg`, or its folder does not exist.
    """
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
    if image is not None:
        axes.imshow(np.asarray(image).squeeze(), cmap="gray", extent=extent, interpolation="nearest")
    if heat is not None:
        scaled = np.abs(heat) / np.abs(heat).max()
        alpha = 1.0 if image is None else np.clip(scaled**0.5, 0, 1) * 0.9
        shown = axes.imshow(scaled, cmap="cividis", extent=extent, alpha=alpha, vmin=0, vmax=1, interpolation="nearest")
        axes.figure.colorbar(shown, ax=axes, label="mean |gradient| (share of the largest)", shrink=0.85)
    elif image is None:
        axes.set_facecolor("#eeeeee")
    rows, columns = field.interval(index, clip=False)
    if rows is not None and columns is not None:
        (top, bottom), (left, right) = rows, columns
        axes.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5),
                right - left + 1,
                bottom - top + 1,
                fill=False,
                edgecolor=_BOX,
                lw=2,
                label=f"theoretical, {bottom - top + 1} x {right - left + 1}",
            )
        )
        axes.set_xlim(min(left - 1, -0.5) - 1, max(right + 1, width - 0.5) + 1)
        axes.set_ylim(max(bottom + 1, height - 0.5) + 1, min(top - 1, -0.5) - 1)
    if fit is not None:
        (cy, cx), (sy, sx) = fit.centre, fit.sigma
        axes.add_patch(
            Ellipse(
                (cx, cy),
                2 * _GAUSSIAN_95 * sx,
                2 * _GAUSSIAN_95 * sy,
                fill=False,
                edgecolor=_FIT,
                lw=2,
                ls="--",
                label=f"Gaussian, 2σ: σ = {sy:.1f} x {sx:.1f}",
            )
        )
    axes.set_xlabel("column (pixels)")
    axes.set_ylabel("row (pixels)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8, frameon=False, ncols=2)


def _draw_section(axes: Any, heat: np.ndarray, field: ReceptiveField, index: tuple[int, ...], fit: Any) -> None:
    profile = np.abs(heat).sum(1)
    places = np.arange(len(profile))
    axes.plot(places, profile / profile.max(), "-", color=_MEASURED, lw=2, label="measured, rows' sums")
    if fit is not None:
        fine = np.linspace(0, len(profile) - 1, 400)
        columns = np.arange(heat.shape[1])
        curve = fit(fine[:, None], columns[None]).sum(1)
        axes.plot(fine, curve / profile.max(), "--", color=_FIT, lw=2, label=f"Gaussian, R² = {fit.r_squared:.3f}")
    interval = field.interval(index)[0]
    if interval is not None:
        for edge in (interval[0] - 0.5, interval[1] + 0.5):
            axes.axvline(edge, color=_BOX, ls=":", lw=2)
        axes.plot([], [], ":", color=_BOX, lw=2, label=f"theoretical, rows {interval[0]} to {interval[1]}")
    axes.set_title(f"95.45 % within {effective_size(heat)[0]:.1f} rows", fontsize=10)
    axes.set_xlabel("row (pixels)")
    axes.set_ylabel("share of the largest")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8, frameon=False)
