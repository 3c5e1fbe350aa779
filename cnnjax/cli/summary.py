"""`cnnjax summary`: the table of a model's layers."""

import argparse
import dataclasses
from typing import Any

from cnnjax.cli import modelling
from cnnjax.cli.output import Output
from cnnjax.errors import UsageError


def add_parser(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "summary", parents=[common], help="a model's layers: shapes, parameters, MACs, memory, receptive fields"
    )
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("model", metavar="MODEL", help="model name, or package.module:Class of a linen module")
    parser.add_argument(
        "--input-shape",
        type=int,
        nargs=3,
        metavar=("H", "W", "C"),
        help="shape of an image (default: what the net was published for)",
    )
    parser.add_argument("--num-classes", type=int, metavar="N", help="width of the logits (default: as published)")


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the table."""
    import cnnjax
    from cnnjax import models

    named = ":" not in args.model
    if args.num_classes is not None and args.num_classes < 1:
        raise UsageError(f"--num-classes: expected at least 1, got {args.num_classes}.")
    if args.input_shape is None and not named:
        raise UsageError(f"--input-shape: expected H W C for {args.model}, which has no published shape.")
    if args.input_shape is not None and min(args.input_shape) < 1:
        raise UsageError(f"--input-shape: expected three positive numbers, got {args.input_shape}.")
    classes = args.num_classes or (models.num_classes(args.model) if named else 10)
    model = modelling.build_model(args.model, classes)
    height, width, channels = args.input_shape or models.input_shape(args.model)
    shape = (height, width, channels)
    modelling.check_output(model, shape, classes)
    table = dataclasses.replace(cnnjax.summary(model, shape), model=args.model)
    result = {
        "model": args.model,
        "input_shape": list(shape),
        "rows": [dataclasses.asdict(row) for row in table.rows],
        "totals": table.totals,
    }
    out.result(result, [str(table)])
    return 0
