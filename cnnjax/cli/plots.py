"""Pictures of a run; matplotlib is loaded here and nowhere else."""

import pathlib

from cnnjax.training import History


def learning_curves(history: History, path: pathlib.Path) -> None:
    """Draw loss and accuracy by epoch, training and validation, as PNG.

    Args:
      history: A row an epoch.
      path: File to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # A figure of its own instead of pyplot's: no global state, no display, no window.
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    epochs = history["epoch"]
    for axes, metric, scale in zip(figure.subplots(1, 2), ("loss", "accuracy"), (1.0, 100.0)):
        # Colours of Okabe and Ito, which the colour-blind tell apart; the line's style says it again.
        for split, label, style, colour in (
            ("train", "training", "--", "#0072B2"),
            ("val", "validation", "-", "#D55E00"),
        ):
            if f"{split}_{metric}" in history[0]:
                values = [scale * value for value in history[f"{split}_{metric}"]]
                axes.plot(epochs, values, style, color=colour, label=label, marker="." if len(epochs) < 40 else None)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss (nats)" if metric == "loss" else "accuracy (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    canvas.print_png(str(path))
