"""`cnnjax predict`: a trained run's or a published net's classes for image files."""

import argparse
import pathlib
import sys
from typing import Any

from cnnjax.cli import classifier_options, loading
from cnnjax.cli.output import Output
from cnnjax.errors import CnnjaxError, UsageError


def add_parser(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser("predict", parents=[common], help="classify image files")
    parser.set_defaults(run=run, parser=parser)
    parser.usage = "%(prog)s [OPTIONS] [MODEL] IMAGE [IMAGE ...]"
    parser.add_argument(
        "words",
        nargs="+",
        metavar="[MODEL] IMAGE",
        help="PNG or JPEG files, any size and mode; with --weights, the net that they are for comes first",
    )
    classifier_options.add(parser, classes=True)
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes to show (default 5)")
    loading.add_pixel_range(parser)
    parser.add_argument("--invert", action="store_true", help="swap light and dark, for ink on paper")


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the most probable classes of each image and what was done to it."""
    if args.top < 1:
        raise UsageError(f"--top: expected at least 1, got {args.top}.")
    expected = "expected either --workdir DIR IMAGE... or MODEL --weights FILE IMAGE..."
    classifier_options.check(
        args, "predict", args.words[0], expected, extra=f"{classifier_options.IMAGE_OPTIONS}, --classes"
    )
    name, images = (None, args.words) if args.weights is None else (args.words[0], args.words[1:])
    if not images:
        raise UsageError("predict: expected MODEL and at least one IMAGE with --weights.")
    classifier = classifier_options.read(args, name, out)
    results, lines, code = [], [], 0
    for path in images:
        try:
            if pathlib.Path(path).is_dir():
                raise CnnjaxError(f"{path}: it is a folder. Name its images: {pathlib.Path(path) / '*'}")
            (found,) = classifier.predict(path, args.top, invert=args.invert, pixel_range=args.pixel_range)
        except CnnjaxError as error:  # the other images are none the worse for it
            print(f"cnnjax: {error}", file=sys.stderr)  # noqa: T201
            results.append({"image": path, "error": str(error)})
            code = 1
            continue
        shares = zip(found.classes, found.probabilities)
        predictions = [{"class": name, "probability": share} for name, share in shares]
        hint = {"hint": found.hint} if found.hint else {}
        results.append({"image": path, "done": found.done, "predictions": predictions, **hint})
        lines += str(found).splitlines()
    out.result({"predictions": results}, lines)
    return code
