"""`cnnjax predict`: a trained run's or a published net's classes for image files."""

import argparse
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from cnnjax.cli import image_rule, loading, modelling, published
from cnnjax.cli.class_names import read_names
from cnnjax.cli.output import Output
from cnnjax.errors import CnnjaxError, UsageError

# The probabilities for an image file, what was done to it, and a hint or None.
Classify = Callable[[pathlib.Path], tuple[Any, str, str | None]]


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
    parser.add_argument("--workdir", type=pathlib.Path, metavar="DIR", help="the run's workdir")
    published.add_options(parser)
    parser.add_argument(
        "--classes", type=pathlib.Path, metavar="FILE.txt", help="names of the weights' classes, one a line"
    )
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes to show (default 5)")
    loading.add_pixel_range(parser)
    parser.add_argument("--invert", action="store_true", help="swap light and dark, for ink on paper")


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the most probable classes of each image and what was done to it."""
    import numpy as np

    if args.top < 1:
        raise UsageError(f"--top: expected at least 1, got {args.top}.")
    if (args.workdir is None) == (args.weights is None):
        raise UsageError("predict: expected either --workdir DIR IMAGE... or MODEL --weights FILE IMAGE...")
    if args.weights is None:
        classify, names, images = *_trained(args, out), args.words
    else:
        classify, names, images = *_published(args, out), args.words[1:]
    results, lines, code = [], [], 0
    for path in images:
        try:
            scores, done, hint = classify(pathlib.Path(path))
            if not np.isfinite(scores).all():
                raise CnnjaxError(f"{path}: the net gives no numbers for it (NaN). Its weights may be damaged.")
        except CnnjaxError as error:  # the other images are none the worse for it
            print(f"cnnjax: {error}", file=sys.stderr)  # noqa: T201
            results.append({"image": str(path), "error": str(error)})
            code = 1
            continue
        order = np.argsort(-scores, kind="stable")[: args.top]
        predictions = [{"class": names[i], "probability": float(scores[i])} for i in order]
        results.append({"image": str(path), "done": done, "predictions": predictions})
        lines.append(f"{path}: {done}")
        lines += [f"  {p['probability']:7.2%}  {p['class']}" for p in predictions]
        if hint:
            results[-1]["hint"] = hint
            lines.append(f"  {hint}")
    out.result({"predictions": results}, lines)
    return code


def _trained(args: argparse.Namespace, out: Output) -> tuple[Classify, list[str]]:
    """Return what gives the probabilities of an image after a run, and the names of its classes."""
    import jax
    import numpy as np

    from cnnjax import data

    if image_rule.given(args) or args.classes:
        raise UsageError(f"predict: a run in a workdir has its own data; leave out {image_rule.NAMES}, --classes.")
    state, config, described = modelling.restore(args.workdir, out)
    pixel_range = args.pixel_range or config.get("pixel_range")
    shape, mean = tuple(described["image_shape"]), tuple(described["mean"])

    @jax.jit
    def probabilities(state: Any, images: jax.Array) -> jax.Array:
        prepared = data.prepare_images(
            images, mean=mean, std=tuple(described["std"]), image_size=tuple(described["input_shape"][:2])
        )
        return jax.nn.softmax(state.apply_fn(state.variables, prepared, train=False))

    def classify(path: pathlib.Path) -> tuple[Any, str, str | None]:
        image, done = data.load_image(path, shape, invert=args.invert, pixel_range=pixel_range)
        return np.array(probabilities(state, image[None])[0]), done, _hint(image, mean, args.invert)

    return classify, described["class_names"]


def _published(args: argparse.Namespace, out: Output) -> tuple[Classify, list[str]]:
    """Return what gives the probabilities of an image by published weights, and the names of their classes."""
    import jax
    import numpy as np

    from cnnjax.data import images as files

    model, *images = args.words
    if not images:
        raise UsageError("predict: expected MODEL and at least one IMAGE with --weights.")
    names = read_names(args.classes)
    state, rule = published.load(args, model, out, num_classes=len(names))
    if rule is None:
        raise published.unknown_rule(model, args.weights)

    @jax.jit
    def prepare(images: jax.Array) -> jax.Array:
        return rule(images)

    @jax.jit
    def probabilities(state: Any, images: jax.Array) -> jax.Array:
        return jax.nn.softmax(state.apply_fn(state.variables, images, train=False))

    def classify(path: pathlib.Path) -> tuple[Any, str, str | None]:
        (height, width), _ = files.size_and_kind(path)
        shape = (height, width, rule.depth)
        image, done = files.load_image(path, shape, invert=args.invert, pixel_range=args.pixel_range)
        scores = np.array(probabilities(state, prepare(image[None]))[0])
        resized = "×".join(map(str, rule.resized(height, width)[::-1]))
        return scores, f"{done} → {resized}, centre {rule.crop}×{rule.crop}", _hint(image, rule.mean, args.invert)

    return classify, names


def _hint(image: Any, mean: tuple[float, ...], inverted: bool) -> str | None:
    """Return what a person should know about an image unlike those of the training, or None."""
    from cnnjax import data

    if image.min() == image.max():
        return "is one colour all over: nothing to recognise"
    if len(mean) == 1 and not inverted and data.looks_inverted(image, mean):
        return "looks dark on light, unlike the training images: try --invert"
    return None
