"""`cnnjax shapes`: output sizes, where the windows lie, and which pixels they never read."""

import argparse
import pathlib
from typing import Any

from cnnjax.cli.output import Output
from cnnjax.errors import CnnjaxError, UsageError
from cnnjax.shapes import Explanation, Padding, explain, explain_transpose

_AXES = ("height", "width")
_LARGEST = 100_000


def add_parser(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "shapes",
        parents=[common],
        help="output size and window positions of a convolution or pool",
        description="Each number may be one, for a single axis or both, or two: height and width.",
    )
    parser.set_defaults(run=run, parser=parser)
    numbers: dict[str, Any] = {"type": int, "nargs": "+", "metavar": "N"}
    parser.add_argument("--input", required=True, **numbers, help="pixels")
    parser.add_argument("--kernel", required=True, **numbers, help="taps of the window")
    parser.add_argument("--stride", **numbers, help="pixels between windows (default: 1; the kernel with --pool)")
    parser.add_argument(
        "--padding",
        nargs="+",
        default=["0"],
        metavar="P",
        help="SAME, VALID, pixels on both sides, or BEFORE,AFTER such as 0,1 (default: 0)",
    )
    parser.add_argument("--dilation", **numbers, default=[1], help="pixels between taps (default: 1)")
    parser.add_argument("--output-padding", **numbers, default=[0], help="with --transposed: pixels added at the end")
    parser.add_argument("--ceil-mode", action="store_true", help="let a last window hang over the end, as PyTorch does")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--transposed", action="store_true", help="the transposed convolution of this window")
    kind.add_argument("--pool", action="store_true", help="a pool: the stride is the kernel, the padding is smaller")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE.png", help="draw grid, padding and windows")


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the explanation of each axis."""
    if args.output_padding != [0] and not args.transposed:
        raise UsageError("--output-padding: only with --transposed. Leave it out, or add that.")
    if args.plot is not None:
        _check_plot(args.plot)
    axes = [_explain(args, axis, count) for count in [_axes(args)] for axis in range(count)]
    if args.plot is not None:
        from cnnjax.cli import shapes_plot

        shapes_plot.draw(axes, args.plot)
    both = len(axes) == 2
    result: dict[str, Any] = {
        "output": [seen.output for seen in axes],
        "padding": [list(seen.padding) for seen in axes],
        "unread": [list(seen.unread) for seen in axes],
    }
    if args.transposed:
        result["unwritten"] = [list(seen.unwritten) for seen in axes]
    if not both:
        result = {name: values[0] for name, values in result.items()}
    lines = [f"{name}: {seen}" for name, seen in zip(_AXES, axes)] if both else [str(axes[0])]
    if args.plot is not None:
        result["plot"] = str(args.plot)
        lines.append(f"drawn: {args.plot}")
    out.result(result, lines)
    return 0


def _axes(args: argparse.Namespace) -> int:
    """Return how many axes are meant: two where any option gives two values."""
    options = ("input", "kernel", "stride", "padding", "dilation", "output_padding")
    lengths = {name: len(getattr(args, name) or [0]) for name in options}
    for name, length in lengths.items():
        if length > 2:
            raise UsageError(f"--{name.replace('_', '-')}: expected one value or two (height width), got {length}.")
    return max(lengths.values())


def _explain(args: argparse.Namespace, axis: int, count: int) -> Explanation:
    def number(name: str) -> int:
        values = getattr(args, name)
        return values[axis if len(values) == 2 else 0]

    size, kernel, dilation = number("input"), number("kernel"), number("dilation")
    stride = number("stride") if args.stride else kernel if args.pool else 1
    padding = _padding(args.padding[axis if len(args.padding) == 2 else 0])
    if max(size, kernel * dilation, stride, *_sides(padding)) > _LARGEST:
        raise UsageError(f"shapes: expected numbers up to {_LARGEST:,}, got a larger one. Give smaller ones.")
    try:
        if args.transposed:
            if args.ceil_mode:
                raise UsageError("--ceil-mode: a transposed convolution has none. Leave it out.")
            return explain_transpose(size, kernel, stride, padding, dilation, number("output_padding"))
        seen = explain(size, kernel, stride, padding, dilation, args.ceil_mode)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{_AXES[axis]}: {error}" if count == 2 else str(error)) from None
    if args.pool and max(seen.padding) >= seen.reach:
        raise UsageError(
            f"--pool: expected padding smaller than the window {seen.reach}, got {seen.padding}. "
            "Pad less: a window of padding alone has no value."
        )
    return seen


def _padding(word: str) -> Padding:
    try:
        numbers = [int(part) for part in word.split(",")]
    except ValueError:
        return word
    if len(numbers) > 2:
        raise UsageError(f"--padding: expected SAME, VALID, N or BEFORE,AFTER, got {word!r}.")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def _sides(padding: Padding) -> tuple[int, ...]:
    return () if isinstance(padding, str) else padding if isinstance(padding, tuple) else (padding,)


def _check_plot(path: pathlib.Path) -> None:
    """Refuse before any work is done what could not be drawn."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise CnnjaxError("--plot needs matplotlib, which is not installed. Install it: pip install 'cnnjax[plot]'.")
    if path.suffix.lower() != ".png":
        raise UsageError(f"--plot: expected a file named .png, got {path}.")
    if not path.absolute().parent.is_dir():
        raise CnnjaxError(f"--plot: there is no folder {path.absolute().parent}. Make it first.")
