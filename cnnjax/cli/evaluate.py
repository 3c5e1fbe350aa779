"""`cnnjax eval`: a trained run's or a published net's metrics on a split, with accuracy by class."""

import argparse
import csv
import io
import pathlib
from typing import TYPE_CHECKING, Any

from cnnjax import files
from cnnjax.cli import classifier_options, loading
from cnnjax.cli.output import Output
from cnnjax.errors import UsageError
from cnnjax.recipes import Recipe

if TYPE_CHECKING:
    from cnnjax import Classifier
    from cnnjax.data import Dataset
    from cnnjax.training import Metrics

# A larger matrix than this does not fit a terminal.
_MATRIX_CLASSES = 20
_BY_CLASS = ("precision", "recall", "f1")
_OF_A_FILE = f"MODEL, --dataset, --image-size, {classifier_options.IMAGE_OPTIONS}"


def add_parser(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser("eval", parents=[common], help="evaluate a trained run or published weights")
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="with --weights: the net that they are for")
    classifier_options.add(parser)
    parser.add_argument("--dataset", metavar="NAME", help="with --weights: the data, a name, folder:DIR or tfds:NAME")
    loading.add_pixel_range(parser)
    parser.add_argument("--split", choices=["test", "validation", "train"], default="test", help="default: test")
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="with --weights: what a folder's images are resized to (N x N)"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at once; the result does not depend on it")
    parser.add_argument(
        "--top", type=int, metavar="K", help="also say how often the label is among the K greatest logits"
    )
    parser.add_argument("--dump-predictions", type=pathlib.Path, metavar="FILE.csv", help="write id,label,prediction")
    loading.add_options(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the metrics of every example of the split, each counted once."""
    numbers = {"--batch-size": args.batch_size, "--image-size": args.image_size, "--top": args.top}
    for option, number in numbers.items():
        if number is not None and number < 1:
            raise UsageError(f"{option}: expected at least 1, got {number}.")
    expected = "expected either --workdir DIR or MODEL --weights FILE --dataset NAME."
    classifier_options.check(args, "eval", args.model, expected, extra=_OF_A_FILE)
    if args.weights is not None and None in (args.model, args.dataset):
        raise UsageError(
            "--weights: expected MODEL and --dataset too, as in: eval resnet50 --weights FILE --dataset NAME."
        )
    classifier = classifier_options.read(args, args.model, out, for_photographs=False)
    if args.weights is None:
        dataset, recipe = _trained_on(args, out)
        least, flip_tta, loss = recipe.batch_size, recipe.flip_tta, recipe.loss
    else:
        dataset, least, flip_tta = loading.for_weights(args, classifier, out), 1, False
        loss = "softmax"
    dataset = classifier.sized(dataset)
    from cnnjax.classifier import eval_batch_size
    from cnnjax.training import LOSSES

    size = args.batch_size or eval_batch_size(getattr(dataset, args.split).image_shape, least)
    options: Any = {"batch_size": size, "flip_tta": flip_tta, "loss": LOSSES[loss]}
    metrics = classifier.evaluate(dataset, split=args.split, **options)
    if args.dump_predictions:
        _dump(classifier, dataset, args.split, size, args.dump_predictions, flip_tta)
    _report(metrics, list(dataset.info.class_names), args, out)
    return 0


def _trained_on(args: argparse.Namespace, out: Output) -> "tuple[Dataset, Recipe]":
    """Return a run's data and its recipe."""
    from cnnjax import runs

    config, described = runs.read_run(args.workdir)
    recipe = Recipe.from_json(config)
    dataset = loading.as_recorded(recipe, described, args, out)
    for name in ("class_names", "image_shape"):
        there, here = described[name], list(getattr(dataset.info, name))
        if there != here:
            raise UsageError(f"{recipe.dataset} has other {name} than the run was trained with: {here}, not {there}.")
    if dict(dataset.info.digests) != described["digests"]:
        out.say("warning: these are other data than the run was trained with")
    return dataset, recipe


def _report(metrics: "Metrics", names: list[str], args: argparse.Namespace, out: Output) -> None:
    by_class = [[None if value != value else float(value) for value in values] for values in metrics.by_class]
    per_class = by_class[1]
    top = {} if args.top is None else {f"top{args.top}": metrics.top(args.top)}
    result = {
        "examples": metrics.examples,
        **metrics.compute(),
        **top,
        "split": args.split,
        "per_class_accuracy": dict(zip(names, per_class)),
        **{f"per_class_{name}": dict(zip(names, values)) for name, values in zip(_BY_CLASS, by_class)},
        "confusion": metrics.confusion.tolist(),
    }
    lines = [
        f"{args.split}: {metrics.examples:,} examples, {metrics.accuracy:.2%} correct, loss {metrics.loss:.4f}, "
        f"label among the first five {metrics.top5:.2%}.",
        *(f"label among the first {args.top}: {value:.2%}." for value in top.values()),
        f"  {'':20} {'accuracy':>11} {'precision':>9} {'F1':>9}",
        *(
            f"  {name:20} {'no examples' if recall is None else f'{recall:11.2%}'} {_share(precision)} {_share(f1)}"
            for name, precision, recall, f1 in zip(names, *by_class)
        ),
    ]
    if len(names) <= _MATRIX_CLASSES:
        width = max(len(str(metrics.confusion.max())), 4)
        lines.append("confusion matrix, a row the label and a column the prediction, in the order above:")
        lines += [
            "  " + " ".join(f"{n:{width}d}" for n in row) + f"  {name}" for row, name in zip(metrics.confusion, names)
        ]
    out.result(result, lines)


def _share(value: float | None) -> str:
    return f"{'-':>9}" if value is None else f"{value:9.2%}"


def _dump(
    classifier: "Classifier", dataset: "Dataset", split: str, size: int, path: pathlib.Path, flip_tta: bool
) -> None:
    import jax
    import numpy as np
    import optax

    from cnnjax import data
    from cnnjax.training import compute_logits

    state, part = classifier.create_state(dataset, optax.identity(), key=jax.random.key(0)), getattr(dataset, split)
    predict = jax.jit(lambda state, image: compute_logits(state, image, flip_tta=flip_tta).argmax(axis=-1))
    parts = [np.array(predict(state, batch.image)) for batch in data.batches(part, size)]
    predictions = np.concatenate(parts)[: len(part)]  # the last batch is filled up
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "label", "prediction"])
    writer.writerows(zip(part.ids, part.labels.tolist(), predictions.tolist()))
    files.write_text(path, text.getvalue())
