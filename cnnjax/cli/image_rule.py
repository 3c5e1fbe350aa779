"""The options that say how images are prepared for weights from a file: as for a published net, or by a plain rule."""

import argparse
import math
from typing import TYPE_CHECKING

from cnnjax.errors import UsageError

if TYPE_CHECKING:
    from cnnjax.pretrained.preprocessing import Preprocess

NAMES = "--preprocess, --mean, --std, --crop"
_OPTIONS = ("preprocess", "mean", "std", "crop")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--preprocess", metavar="NAME", help="how images are prepared: as for this published net (default: MODEL's)"
    )
    parser.add_argument(
        "--mean",
        metavar="M,M,M",
        help="in place of --preprocess: one number a channel (one for a net of grey images, such as lenet5), of "
        "pixels 0 to 1: the middle square of an image is resized, then (pixel - mean) / std",
    )
    parser.add_argument("--std", metavar="S,S,S", help="beside --mean: one number a channel")
    parser.add_argument(
        "--crop", type=int, metavar="N", help="beside --mean: side of that square (default: MODEL's; MNIST's is 28)"
    )


def given(args: argparse.Namespace) -> bool:
    """Return whether the user said anything of how images are prepared."""
    return any(getattr(args, name) is not None for name in _OPTIONS)


def chosen(args: argparse.Namespace, model: str, shape: tuple[int, int, int]) -> "Preprocess | None":
    """Return the rule that the user gave, or None.

    Args:
      args: `preprocess`, `mean`, `std`, `crop`.
      model: MODEL, for messages.
      shape: `(H, W, C)` of the images that it takes.
    Raises:
      UsageError: If the options contradict each other, or the rule is for another number of channels.
    """
    from cnnjax.pretrained.preprocessing import Preprocess, preprocess

    if args.mean is args.std is args.crop is None:
        rule = preprocess(args.preprocess) if args.preprocess else None
        if rule is not None:
            check_depth(rule, f"--preprocess {args.preprocess}", model, shape[2])
        return rule
    if args.preprocess or args.mean is None or args.std is None:
        raise UsageError("expected --mean and --std together, or --preprocess NAME without them and --crop.")
    height, width, depth = shape
    if depth not in (1, 3):
        raise UsageError(f"--mean: expected a net of images of 1 or 3 channels, {model} takes {depth}.")
    if args.crop is None and height != width:
        raise UsageError(f"--mean: expected --crop too, since {model} is for images of {height} x {width}.")
    if args.crop is not None and args.crop < 1:
        raise UsageError(f"--crop: expected at least 1, got {args.crop}.")
    mean, std = (_numbers(option, getattr(args, option), depth, model) for option in ("mean", "std"))
    if min(std) <= 0:
        raise UsageError(f"--std: expected numbers above 0, got {args.std}.")
    side = args.crop or height
    return Preprocess(resize=side, crop=side, channels="grey" if depth == 1 else "RGB", mean=mean, std=std)


def check_depth(rule: "Preprocess", what: str, model: str, depth: int) -> None:
    """Refuse a rule for images of another number of channels than a net takes.

    Args:
      rule: How images are prepared.
      what: Says so, for the message.
      model: MODEL, for the message.
      depth: Channels that it takes.
    Raises:
      UsageError: If they differ.
    """
    if rule.depth != depth:
        raise UsageError(
            f"{what}: it prepares images of {rule.depth} channels, {model} takes {depth}. "
            "Give --mean and --std instead, one number a channel."
        )


def _numbers(option: str, text: str, depth: int, model: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != depth or not all(map(math.isfinite, numbers)):
        raise UsageError(
            f"--{option}: expected a number for each channel that {model} takes ({depth}), separated by commas, "
            f"got {text!r}."
        )
    return numbers
