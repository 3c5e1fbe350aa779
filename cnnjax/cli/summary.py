"""`cnnjax summary`: the table of a model's layers."""

import argparse
import dataclasses
from typing import Any

from cnnjax import model_loading
from cnnjax.cli import classifier_options
from cnnjax.cli.output import Output


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
    classifier_options.add_set(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the table."""
    import cnnjax

    model, shape = model_loading.shaped(args.model, args.input_shape, args.num_classes, args.model_options or ())
    table = dataclasses.replace(cnnjax.summary(model, shape), model=args.model)
    result = {
        "model": args.model,
        "input_shape": list(shape),
        "rows": [dataclasses.asdict(row) for row in table.rows],
        "totals": table.totals,
    }
    out.result(result, [str(table)])
    return 0
