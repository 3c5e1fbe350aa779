"""`cnnjax data`: what datasets there are, and making one ready."""

import argparse
from typing import Any

from cnnjax.cli import loading
from cnnjax.cli.output import Output


def add_parser(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb, its own verbs and their options."""
    parser = verbs.add_parser("data", help="list and prepare datasets")
    inner = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=type(parser))
    listing = inner.add_parser("list", parents=[common], help="the datasets, their sizes and where they come from")
    listing.set_defaults(run=run_list, parser=listing)
    loading.add_options(listing)
    prepare = inner.add_parser("prepare", parents=[common], help="fetch, verify and prepare a dataset")
    prepare.set_defaults(run=run_prepare, parser=prepare)
    prepare.add_argument("name", metavar="NAME", help="dataset name")
    loading.add_options(prepare)


def run_list(args: argparse.Namespace, out: Output) -> int:
    """Print a row for each dataset."""
    from cnnjax import data

    rows = data.describe_sources(args.data_dir)
    lines = [f"{'name':15} {'classes':>7} {'train':>9} {'test':>8}  prepared"]
    for row in rows:
        lines.append(
            f"{row['name']:15} {row['classes']:7,} {row['train']:9,} {row['test']:8,}  {row['prepared'] or 'no'}"
        )
        lines += [f"{'':17}{row['note']}"] if row["note"] else []
        lines += [f"{'':17}{number}. {source}" for number, source in enumerate(row["sources"], 1)]
    lines.append("folder:DIR      your own images, one folder a class: DIR/train/CLASS/* and DIR/test/CLASS/*, or")
    lines.append("                DIR/CLASS/* alone; with '?test=0.2', '?crop=random' or '?test=0.2,crop=random',")
    lines.append("                training sees random parts of them, resized, half of them mirrored")
    lines.append("tfds:NAME       any set that TFDS prepared, of one image and one class label; with options as in")
    lines.append("                'tfds:mnist?train=train[:90%]&validation=train[90%:]', and '&crop=random' as above")
    out.result({"datasets": rows}, lines)
    return 0


def run_prepare(args: argparse.Namespace, out: Output) -> int:
    """Prepare one dataset, or verify it if it is prepared already."""
    from cnnjax import data

    path = data.prepare(args.name, data_dir=args.data_dir, source_dir=args.source_dir, log=out.say)
    out.result({"name": args.name, "prepared": str(path)}, [f"{args.name} is ready in {path}"])
    return 0
