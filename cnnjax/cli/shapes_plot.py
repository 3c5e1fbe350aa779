"""The picture of `cnnjax shapes`: the grid, its padding, the windows on it, and what no window touches."""

import pathlib
from typing import Any

import numpy as np

from cnnjax.shapes import Explanation

# Okabe and Ito's colours, which the colour-blind tell apart; hatching and line styles say it again.
_IMAGE, _PADDING, _MISSED = "#F7F7F7", "#BDBDBD", "#E69F00"
_WINDOW, _NEXT, _LAST = "#0072B2", "#009E73", "#D55E00"
_MOST_ROWS, _MOST_LINES = 24, 64


def draw(axes: list[Explanation], path: pathlib.Path) -> None:
    """Draw one axis as a row of pixels with a line for each window, or two as an image.

    Args:
      axes: What is known of one axis, or of height and width.
      path: PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A figure of its own instead of pyplot's: no global state, no display, no window.
    figure = Figure(dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    if len(axes) == 1:
        _draw_line(figure, plot, axes[0])
    else:
        _draw_image(figure, plot, axes[0], axes[1])
    canvas.print_png(str(path))


def _grid(seen: Explanation) -> tuple[int, tuple[int, ...]]:
    """Return the length of the axis that the windows lie on, and the pixels of it that they miss."""
    return (seen.output, seen.unwritten) if seen.transposed else (seen.size, seen.unread)


def _extent(seen: Explanation) -> tuple[int, int]:
    """Return the first and last pixel to draw: those of the grid, the padding and the windows."""
    low, high = seen.padding
    pixels, _ = _grid(seen)
    return min(0, -low, seen.starts[0]), max(pixels, pixels + high, seen.starts[-1] + seen.reach) - 1


def _words(seen: Explanation) -> tuple[str, str, str]:
    """Return what pixels of the grid, its surroundings and missed pixels are called."""
    return ("output", "cut off", "never written") if seen.transposed else ("image", "padding", "never read")


def _draw_line(figure: Any, plot: Any, seen: Explanation) -> None:
    from matplotlib.patches import Rectangle

    pixels, missed = _grid(seen)
    first, last = _extent(seen)
    count = len(seen.starts)
    half = _MOST_ROWS // 2
    rows = list(range(count)) if count <= _MOST_ROWS else [*range(half), None, *range(count - half, count)]
    figure.set_size_inches(min(max(6.0, 0.32 * (last - first + 1) + 1.6), 20), 1.9 + 0.24 * len(rows))
    lines: Any = {"edgecolor": "#7F7F7F", "linewidth": 0.6} if last - first < 2 * _MOST_LINES else {"linewidth": 0}
    for pixel in range(first, last + 1):
        inside = 0 <= pixel < pixels
        colour = _MISSED if pixel in missed else _IMAGE if inside else _PADDING
        hatch = "xx" if pixel in missed else None if inside else "//"
        plot.add_patch(Rectangle((pixel - 0.5, -1.5), 1, 1, facecolor=colour, hatch=hatch, **lines))
    for row, index in enumerate(rows):
        if index is None:
            plot.text((first + last) / 2, row, f"... {count - 2 * half} more ...", ha="center", va="center")
            continue
        start, colour = seen.starts[index], (_WINDOW, _NEXT)[index % 2]
        plot.plot([start, start + seen.reach - 1], [row, row], color=colour, linewidth=1.5)
        taps = [start + tap * seen.dilation for tap in range(seen.kernel)]
        plot.plot(taps, [row] * len(taps), "o", color=colour, markersize=5 if last - first < 80 else 2)
    plot.plot([-0.5, -0.5], [-1.5, len(rows) - 0.5], ":", color="#7F7F7F", linewidth=0.8)
    plot.plot([pixels - 0.5] * 2, [-1.5, len(rows) - 0.5], ":", color="#7F7F7F", linewidth=0.8)
    plot.set(xlim=(first - 0.7, last + 0.7), ylim=(len(rows) - 0.4, -1.6))
    plot.set_yticks([row for row, index in enumerate(rows) if index is not None], [i for i in rows if i is not None])
    plot.set_ylabel("input pixel that writes" if seen.transposed else "output position")
    _finish(figure, plot, [seen], f"{_words(seen)[0]} pixel")


def _draw_image(figure: Any, plot: Any, down: Explanation, across: Explanation) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    (top, bottom), (left, right) = _extent(down), _extent(across)
    (height, rows), (width, columns) = _grid(down), _grid(across)
    kinds = np.ones((bottom - top + 1, right - left + 1), int)
    kinds[-top : height - top, -left : width - left] = 0
    kinds[np.array(rows, int) - top, -left : width - left] = 2
    kinds[-top : height - top, np.array(columns, int) - left] = 2
    side, large = 7.5 / max(kinds.shape), max(kinds.shape) > _MOST_LINES
    figure.set_size_inches(max(5.2, kinds.shape[1] * side + 1), max(3.4, kinds.shape[0] * side + 1.8))
    plot.imshow(
        kinds,
        cmap=ListedColormap([_IMAGE, _PADDING, _MISSED]),
        vmin=0,
        vmax=2,
        extent=(left - 0.5, right + 0.5, bottom + 0.5, top - 0.5),
        interpolation="nearest",
    )
    if not large:
        plot.set_xticks(np.arange(left - 0.5, right + 1), minor=True)
        plot.set_yticks(np.arange(top - 0.5, bottom + 1), minor=True)
        plot.grid(which="minor", color="#C8C8C8", linewidth=0.5)
        plot.tick_params(which="minor", length=0)
        centres = np.meshgrid(*([s + (seen.reach - 1) / 2 for s in seen.starts] for seen in (across, down)))
        plot.plot(*map(np.ravel, centres), "+", color="#555555", markersize=5, label="centre of a window")
    plot.add_patch(Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor="black", linewidth=1.4))
    last = (len(down.starts) - 1, len(across.starts) - 1)
    places = {(0, 0): (_WINDOW, "-"), (0, min(1, last[1])): (_NEXT, "--"), (min(1, last[0]), 0): (_NEXT, "--")}
    for (i, j), (colour, style) in {last: (_LAST, "-."), **places}.items():
        y, x = down.starts[i], across.starts[j]
        corner = (x - 0.5, y - 0.5)
        box = {"edgecolor": colour, "linestyle": style, "linewidth": 1.0 if large else 2.0, "fill": False}
        plot.add_patch(Rectangle(corner, across.reach, down.reach, **box))
        if (i, j) in ((0, 0), last) and not large:
            taps = np.meshgrid(*(s + np.arange(n.kernel) * n.dilation for s, n in ((x, across), (y, down))))
            plot.plot(*map(np.ravel, taps), "s" if (i, j) == last else "o", color=colour, markersize=3.5)
    # Room for the lines of windows on the very edge.
    plot.set(xlim=(left - 0.7, right + 0.7), ylim=(bottom + 0.7, top - 0.7), ylabel="row")
    _finish(figure, plot, [down, across], "column")


def _finish(figure: Any, plot: Any, axes: list[Explanation], label: str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    for axis in (plot.xaxis, plot.yaxis) if len(axes) == 2 else (plot.xaxis,):
        axis.set_major_locator(MaxNLocator(integer=True))
    inside, outside, missed = _words(axes[0])
    entries: list[Any] = [Patch(facecolor=_IMAGE, edgecolor="#7F7F7F", label=inside)]
    if any(map(any, (seen.padding for seen in axes))):
        hatch = "//" if len(axes) == 1 else None
        entries.append(Patch(facecolor=_PADDING, edgecolor="#7F7F7F", hatch=hatch, label=outside))
    if any(_grid(seen)[1] for seen in axes):
        hatch = "xx" if len(axes) == 1 else None
        entries.append(Patch(facecolor=_MISSED, edgecolor="#7F7F7F", hatch=hatch, label=missed))
    if len(axes) == 1:
        entries.append(Line2D([], [], color=_WINDOW, marker="o", label="a window and its taps"))
    else:
        styles: Any = (("first window", _WINDOW, "-"), ("its neighbours", _NEXT, "--"), ("last window", _LAST, "-."))
        entries += [Line2D([], [], color=colour, linestyle=style, label=name) for name, colour, style in styles]
        entries += [line for line in plot.get_lines() if not line.get_label().startswith("_")]
    figure.legend(handles=entries, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    plot.set_xlabel(label)
    plot.set_title(_title(axes), fontsize=9)
    plot.set_frame_on(False)


def _title(axes: list[Explanation]) -> str:
    def each(name: str) -> str:
        values = [getattr(seen, name) for seen in axes]
        return "x".join(map(str, values)) if len(set(values)) > 1 or name in ("size", "output") else str(values[0])

    kind = ", transposed" * axes[0].transposed
    window = ", ".join(f"{name} {each(name)}" for name in ("kernel", "stride", "dilation"))
    return f"input {each('size')}, {window}{kind}: output {each('output')}"
