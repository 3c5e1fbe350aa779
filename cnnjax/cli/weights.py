"""`cnnjax weights`: what is in a file of weights, and the same net as safetensors."""

import argparse
import pathlib
from collections import Counter
from typing import Any

from cnnjax.cli import classifier_options
from cnnjax.cli.output import Output, table
from cnnjax.errors import CnnjaxError, UsageError


def add_parser(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb, its own verbs and their options."""
    parser = verbs.add_parser("weights", help="official files; look into files of weights, convert them")
    inner = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=type(parser))
    official = inner.add_parser("list", parents=[common], help="the official files that `--weights imagenet` fetches")
    official.set_defaults(run=run_list, parser=official)
    inspect = inner.add_parser("inspect", parents=[common], help="its tensors, and which known net it fits")
    inspect.set_defaults(run=run_inspect, parser=inspect)
    inspect.add_argument("file", type=pathlib.Path, metavar="FILE", help="PyTorch, safetensors, Keras, Flax or Orbax")
    convert = inner.add_parser("convert", parents=[common], help="read a file into a net and write it as safetensors")
    convert.set_defaults(run=run_convert, parser=convert)
    convert.add_argument("model", metavar="MODEL", help="model name, or package.module:Class")
    convert.add_argument(
        "file",
        type=pathlib.Path,
        metavar="FILE",
        help="PyTorch, safetensors, Keras, Flax or Orbax; or `imagenet` for the official file of MODEL",
    )
    convert.add_argument("out", type=pathlib.Path, metavar="OUT.safetensors", help="file to write")
    classifier_options.add_names(convert)
    convert.add_argument(
        "--classes",
        type=pathlib.Path,
        metavar="FILE.txt",
        help="names of the classes, one a line, for the new file",
    )
    convert.add_argument("--names", default="cnnjax", help="names in the new file: cnnjax (default) or torchvision")
    convert.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="classes that the file must have (default: those it has)",
    )


def run_list(args: argparse.Namespace, out: Output) -> int:
    """Print a row for each official file: name, accuracy, preprocessing, hash, licence."""
    import dataclasses

    from cnnjax import pretrained
    from cnnjax.pretrained.catalogue import published_names

    rows, lines = [], []
    for name in published_names():
        file = pretrained.published(name)
        rule = file.preprocess
        record = {field.name: getattr(file, field.name) for field in dataclasses.fields(file)}
        rows.append({**record, "options": dict(file.options), "preprocess": dataclasses.asdict(rule)})
        accuracy = "not published" if file.accuracy is None else "{:.3f} / {:.3f} %".format(*file.accuracy)
        size = f"{rule.resize} to {rule.crop}, {rule.channels}"
        lines.append(f"{name:30} {accuracy:17} {size:15} {file.algorithm} {file.digest:32}  {file.licence}")
    heading = f"{'name':30} {'top-1 / top-5':17} {'images':15} hash"
    out.result({"files": rows}, [heading, *lines, "Names with a colon are for cnnjax.pretrained.published(NAME)."])
    return 0


def run_inspect(args: argparse.Namespace, out: Output) -> int:
    """Print a row for each tensor, and the nets that the file fits."""
    from cnnjax import pretrained
    from cnnjax.pretrained.readers import printable

    file = pretrained.open_file(args.file)
    rows = [
        {"name": name, "shape": list(tensor.shape), "dtype": tensor.dtype.name, "bytes": tensor.nbytes}
        for name, tensor in file.tensors.items()
    ]
    fits = [
        {"model": fit.model, "names": fit.naming, "num_classes": fit.num_classes, "options": fit.options}
        for fit in pretrained.identify(file)
    ]
    cells = [
        (printable(row["name"]), "x".join(map(str, row["shape"])) or "scalar", row["dtype"], f"{row['bytes']:,} B")
        for row in rows
    ]
    lines = table(cells, right=(3,))
    total = sum(row["bytes"] for row in rows)
    lines.append(f"{file.format}: {len(rows):,} tensors, {total / 1e6:,.1f} MB")
    lines += [printable(note) for note in file.notes]
    reasons = Counter(tensor.reason for tensor in file.left_out)
    lines += [printable(f"{count:,} more left out: {reason}") for reason, count in reasons.items()]
    lines += [_fit_line(fit) for fit in fits] or ["fits no net that is known here, to the last tensor"]
    left_out = [
        {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype.name, "reason": tensor.reason}
        for tensor in file.left_out
    ]
    result = {"format": file.format, "tensors": rows, "bytes": total, "left_out": left_out}
    out.result({**result, "notes": list(file.notes), "fits": fits}, lines)
    return 0


def run_convert(args: argparse.Namespace, out: Output) -> int:
    """Load a file into a model, with as many classes as it has, and save that as safetensors."""
    from cnnjax import pretrained
    from cnnjax.classifier import sources
    from cnnjax.pretrained.readers import printable
    from cnnjax.pretrained.saving import check_path

    check_path(args.out)
    if args.num_classes is not None and args.num_classes < 1:
        raise UsageError(f"--num-classes: expected at least 1, got {args.num_classes}.")
    if str(args.file) == "imagenet":
        args.weights = "imagenet"
        args.file = classifier_options.weights_path(args, args.model, out)
    if args.out.exists() and args.out.samefile(args.file):
        raise UsageError(f"{args.out}: expected another file than the one that is read.")
    names, count = classifier_options.read_names(args.classes), args.num_classes
    if names and count not in (None, len(names)):
        raise UsageError(f"--classes: expected {count} names, as --num-classes says, got {len(names)}.")
    if count is None:
        count = len(names) if names else None
    model, variables, report = sources.load(args.model, args.file, count, classifier_options.load_options(args))
    if report.file_classes is not None:
        reason = next(entry.reason for entry in report.entries if "its head is not taken" in entry.reason)
        raise CnnjaxError(f"{args.file}: {reason}. Give the file's number to --num-classes.")
    described = sources.describe_loaded(args.model, model, args.file, report)
    metadata = sources.metadata(described.preprocess, names or described.class_names)
    pretrained.save(variables, args.out, names=args.names, model=model, metadata=metadata)
    sha256 = pretrained.sha256_of(args.out)
    result = {
        "model": args.model,
        "num_classes": getattr(model, "num_classes", None),
        "out": str(args.out),
        "sha256": sha256,
        "report": report.as_dict(),
    }
    out.result(result, [*map(printable, str(report).splitlines()), f"wrote {args.out}, sha256 {sha256}"])
    return 0


def _fit_line(fit: dict[str, Any]) -> str:
    options = "".join(f", {name}={value}" for name, value in fit["options"].items())
    classes = "" if fit["num_classes"] is None else f", {fit['num_classes']:,} classes"
    return f"fits {fit['model']} (names of {fit['names']}{classes}{options})"
