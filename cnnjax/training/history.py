"""What a run has found, a row an epoch: a table, and curves in a notebook."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

Row = dict[str, float | int]


class History(Sequence[Row]):
    """A row an epoch; `history["val_loss"]` is a column, `history[-1]` a row."""

    def __init__(self, rows: Sequence[Row] = ()):
        self.rows = [dict(row) for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return [row[index] for row in self.rows] if isinstance(index, str) else self.rows[index]

    def __repr__(self) -> str:
        return f"History({self.rows!r})"

    def to_csv(self) -> str:
        """Return the table as CSV text, a header and a row an epoch."""
        text = io.StringIO()
        if self.rows:
            # A column may come up later: steps are skipped only here and there.
            names = dict.fromkeys(name for row in self.rows for name in row)
            writer = csv.DictWriter(text, list(names), restval=0, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        return text.getvalue()

    def _repr_html_(self) -> str:
        """Return the curves of loss and accuracy, for a notebook."""
        panels = [_panel(self.rows, metric) for metric in ("loss", "accuracy")]
        return "<div>" + "".join(panels) + "</div>" if self.rows else "<code>History([])</code>"


_WIDTH, _HEIGHT, _MARGIN = 360, 220, 36
# Of Okabe and Ito, which the colour-blind tell apart; the dashes say it again.
_LINES = (("train", "#0072B2", "4 3"), ("val", "#D55E00", ""))


def _panel(rows: Sequence[Row], metric: str) -> str:
    """Return a metric's curves as SVG; nothing where no row has it."""
    curves = {
        split: [(row["epoch"], row[f"{split}_{metric}"]) for row in rows if f"{split}_{metric}" in row]
        for split, _, _ in _LINES
    }
    values = [value for points in curves.values() for _, value in points]
    if not values:
        return ""
    low, high, last = min(values), max(values), max(rows[-1]["epoch"], 2)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)

    def place(epoch: float, value: float) -> str:
        x = _MARGIN + (epoch - 1) / (last - 1) * (_WIDTH - 2 * _MARGIN)
        y = _HEIGHT - _MARGIN - (value - low) / (high - low) * (_HEIGHT - 2 * _MARGIN)
        return f"{x:.1f},{y:.1f}"

    def text(x: int, y: int, words: str, anchor: str = "start", colour: str = "#555") -> str:
        return f'<text x="{x}" y="{y}" font-size="11" text-anchor="{anchor}" fill="{colour}">{words}</text>'

    right, bottom = _WIDTH - _MARGIN, _HEIGHT - _MARGIN
    parts = [
        f'<rect x="{_MARGIN}" y="{_MARGIN}" width="{right - _MARGIN}" height="{bottom - _MARGIN}" '
        'fill="none" stroke="#bbb"/>'
    ]
    for number, (split, colour, dashes) in enumerate(_LINES):
        if points := curves[split]:
            path = " ".join(place(*point) for point in points)
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
                f'stroke-dasharray="{dashes}"/>'
            )
            name = "training" if split == "train" else "validation"
            parts.append(text(_MARGIN + 110 * number, 14, f"{name} {points[-1][1]:.4f}", colour=colour))
    parts += [text(_MARGIN, 29, metric), text(_MARGIN - 3, bottom, f"{low:.3g}", "end")]
    parts += [text(_MARGIN - 3, _MARGIN + 9, f"{high:.3g}", "end")]
    parts += [text(_MARGIN, _HEIGHT - 20, "epoch 1"), text(right, _HEIGHT - 20, str(rows[-1]["epoch"]), "end")]
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}">{"".join(parts)}</svg>'
