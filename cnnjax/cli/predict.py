"""`cnnjax predict`: a trained run's classes for image files."""

import argparse
import pathlib
import sys
from typing import Any

from cnnjax.cli import modelling
from cnnjax.cli.output import Output
from cnnjax.errors import CnnjaxError, UsageError


def add_parser(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser("predict", parents=[common], help="classify image files")
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("images", nargs="+", type=pathlib.Path, metavar="IMAGE", help="PNG or JPEG, any size and mode")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, metavar="DIR", help="the run's workdir")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes to show (default 5)")
    parser.add_argument("--invert", action="store_true", help="swap light and dark, for ink on paper")


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the most probable classes of each image and what was done to it."""
    import jax
    import numpy as np

    from cnnjax import data

    if args.top < 1:
        raise UsageError(f"--top: expected at least 1, got {args.top}.")
    state, _, described = modelling.restore(args.workdir, out)
    shape, mean = tuple(described["image_shape"]), tuple(described["mean"])

    @jax.jit
    def probabilities(state: Any, images: jax.Array) -> jax.Array:
        prepared = data.prepare_images(
            images, mean=mean, std=tuple(described["std"]), image_size=tuple(described["input_shape"][:2])
        )
        return jax.nn.softmax(state.apply_fn(state.variables, prepared, train=False))

    names, results, lines, code = described["class_names"], [], [], 0
    for path in args.images:
        try:
            image, done = data.load_image(path, shape, invert=args.invert)
        except CnnjaxError as error:  # the other images are none the worse for it
            print(f"cnnjax: {error}", file=sys.stderr)  # noqa: T201
            results.append({"image": str(path), "error": str(error)})
            code = 1
            continue
        scores = np.array(probabilities(state, image[None])[0])
        order = np.argsort(-scores, kind="stable")[: args.top]
        predictions = [{"class": names[i], "probability": float(scores[i])} for i in order]
        results.append({"image": str(path), "done": done, "predictions": predictions})
        lines.append(f"{path}: {done}")
        lines += [f"  {p['probability']:7.2%}  {p['class']}" for p in predictions]
        hint = _hint(image, mean, args.invert)
        if hint:
            results[-1]["hint"] = hint
            lines.append(f"  {hint}")
    out.result({"predictions": results}, lines)
    return code


def _hint(image: Any, mean: tuple[float, ...], inverted: bool) -> str | None:
    """Return what a person should know about an image unlike those of the training, or None."""
    from cnnjax import data

    if image.min() == image.max():
        return "is one colour all over: nothing to recognise"
    if len(mean) == 1 and not inverted and data.looks_inverted(image, mean):
        return "looks dark on light, unlike the training images: try --invert"
    return None
