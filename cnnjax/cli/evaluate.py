"""`cnnjax eval`: a trained run's or a published net's metrics on a split, with accuracy by class."""

import argparse
import csv
import io
import pathlib
from typing import TYPE_CHECKING, Any

from cnnjax import files
from cnnjax.cli import image_rule, loading, modelling, published
from cnnjax.cli.output import Output
from cnnjax.errors import UsageError
from cnnjax.recipes import Recipe

if TYPE_CHECKING:
    from cnnjax.data import Dataset, Split
    from cnnjax.training import Metrics, TrainState

# A larger matrix than this does not fit a terminal.
_MATRIX_CLASSES = 20


def add_parser(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser("eval", parents=[common], help="evaluate a trained run or published weights")
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="with --weights: the net that they are for")
    parser.add_argument("--workdir", type=pathlib.Path, metavar="DIR", help="the run's workdir")
    parser.add_argument("--dataset", metavar="NAME", help="with --weights: the data, a name or folder:DIR")
    loading.add_pixel_range(parser)
    published.add_options(parser)
    parser.add_argument("--split", choices=["test", "validation", "train"], default="test", help="default: test")
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="with --weights: what a folder's images are resized to (N x N)"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at once; the result does not depend on it")
    parser.add_argument("--dump-predictions", type=pathlib.Path, metavar="FILE.csv", help="write id,label,prediction")
    loading.add_options(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the metrics of every example of the split, each counted once."""
    from cnnjax import data
    from cnnjax.training import evaluate, make_eval_step

    if args.batch_size is not None and args.batch_size < 1:
        raise UsageError(f"--batch-size: expected at least 1, got {args.batch_size}.")
    if args.image_size is not None and args.image_size < 1:
        raise UsageError(f"--image-size: expected at least 1, got {args.image_size}.")
    if (args.workdir is None) == (args.weights is None):
        raise UsageError("eval: expected either --workdir DIR or MODEL --weights FILE --dataset NAME.")
    if args.weights is None:
        state, dataset, recipe = _trained(args, out)
        batch_size, mirrored = recipe.batch_size, recipe.test_flip
    else:
        state, dataset = published.load_for_dataset(args, out)
        batch_size, mirrored = 1, False
    split = getattr(dataset, args.split)
    size = args.batch_size or loading.eval_batch_size(batch_size, split.image_shape)
    metrics = evaluate(state, data.batches(split, size), eval_step=make_eval_step(confusion=True, mirrored=mirrored))
    if args.dump_predictions:
        _dump(state, split, size, args.dump_predictions, mirrored)
    _report(metrics, list(dataset.info.class_names), args, out)
    return 0


def _trained(args: argparse.Namespace, out: Output) -> "tuple[TrainState, Dataset, Recipe]":
    """Return a run's state, its data and its recipe."""
    if args.model or args.dataset or image_rule.given(args) or args.image_size:
        raise UsageError(
            "eval: a run in a workdir has its own model and data; leave out MODEL, --dataset, --image-size, "
            f"{image_rule.NAMES}."
        )
    state, config, described = modelling.restore(args.workdir, out)
    recipe = Recipe.from_json(config)
    dataset = loading.load(recipe, args, out)
    for name in ("class_names", "image_shape"):
        there, here = described[name], list(getattr(dataset.info, name))
        if there != here:
            raise UsageError(f"{recipe.dataset} has other {name} than the run was trained with: {here}, not {there}.")
    if dict(dataset.info.digests) != described["digests"]:
        out.say("warning: these are other data than the run was trained with")
    return state, dataset, recipe


def _report(metrics: "Metrics", names: list[str], args: argparse.Namespace, out: Output) -> None:
    per_class = [None if value != value else float(value) for value in metrics.per_class_accuracy]
    result = {
        "examples": metrics.examples,
        **metrics.compute(),
        "split": args.split,
        "per_class_accuracy": dict(zip(names, per_class)),
        "confusion": metrics.confusion.tolist(),
    }
    lines = [
        f"{args.split}: {metrics.examples:,} examples, {metrics.accuracy:.2%} correct, loss {metrics.loss:.4f}, "
        f"label among the first five {metrics.top5:.2%}.",
        *(
            f"  {name:20} {'no examples' if value is None else f'{value:8.2%}'}"
            for name, value in zip(names, per_class)
        ),
    ]
    if len(names) <= _MATRIX_CLASSES:
        width = max(len(str(metrics.confusion.max())), 4)
        lines.append("confusion matrix, a row the label and a column the prediction, in the order above:")
        lines += [
            "  " + " ".join(f"{n:{width}d}" for n in row) + f"  {name}" for row, name in zip(metrics.confusion, names)
        ]
    out.result(result, lines)


def _dump(state: "TrainState", split: "Split", size: int, path: pathlib.Path, mirrored: bool) -> None:
    import jax
    import numpy as np

    from cnnjax import data
    from cnnjax.training import compute_logits

    predict = jax.jit(lambda state, image: compute_logits(state, image, mirrored=mirrored).argmax(axis=-1))
    parts = [np.array(predict(state, batch.image)) for batch in data.batches(split, size)]
    predictions = np.concatenate(parts)[: len(split)]  # the last batch is filled up
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "label", "prediction"])
    writer.writerows(zip(split.ids, split.labels.tolist(), predictions.tolist()))
    files.write_text(path, text.getvalue())
