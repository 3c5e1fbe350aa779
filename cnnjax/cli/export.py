"""`cnnjax export`: a trained run or a published net as one StableHLO program that runs without cnnjax."""

import argparse
import hashlib
import pathlib
from typing import Any

from cnnjax.cli import classifier_options
from cnnjax.cli.output import Output
from cnnjax.errors import UsageError


def add_parser(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser("export", parents=[common], help="write a net as a program that runs without cnnjax")
    parser.set_defaults(run=run, parser=parser)
    parser.usage = "%(prog)s [OPTIONS] [MODEL] OUT"
    parser.add_argument(
        "words",
        nargs="+",
        metavar="[MODEL] OUT",
        help="file to write, for jax.export.deserialize; with --weights, the net that they are for comes first",
    )
    classifier_options.add(parser, classes=True)
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="photographs that the program takes, with --weights (default: a square, already of the size before the "
        "centre is cut out)",
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images that the program takes at once (default: any number)"
    )
    parser.add_argument(
        "--platforms",
        metavar="NAME,NAME",
        default="cpu,cuda,tpu",
        help="where it is to run: any of cpu, cuda, tpu, rocm (default: cpu,cuda,tpu)",
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Write the program and print what it takes and gives."""
    _check(args)
    from cnnjax.classifier import program

    path, platforms = pathlib.Path(args.words[-1]), args.platforms.split(",")
    program.check_path(path)  # before the work, which may take minutes
    program.check_platforms(platforms)
    classifier = classifier_options.read(args, args.words[0], out)
    made = classifier.export(path, image_size=args.image_size, batch_size=args.batch_size, platforms=platforms)
    content = path.read_bytes()
    (images,), (logits,) = made.in_avals, made.out_avals
    shape = [size if isinstance(size, int) else str(size) for size in images.shape]
    result = {
        "out": str(path),
        "platforms": list(made.platforms),
        "input_shape": shape,
        "dtype": str(images.dtype),
        "output_dtype": str(logits.dtype),
        "num_classes": logits.shape[-1],
        "class_names": list(classifier.class_names),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "calling_convention_version": made.calling_convention_version,
    }
    takes = f"{images.dtype} images [{', '.join(map(str, shape))}]"
    out.result(
        result,
        [
            f"wrote {path}, {len(content) / 1e6:,.1f} MB, sha256 {result['sha256']}",
            f"{takes} to {logits.dtype} logits of {logits.shape[-1]} classes, on {', '.join(made.platforms)}",
        ],
    )
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse words that do not go together."""
    expected = "expected either --workdir DIR OUT or MODEL --weights FILE OUT"
    because = f"{expected}, since the program holds the weights."
    classifier_options.check(
        args, "export", args.words[0], because, extra=f"{classifier_options.IMAGE_OPTIONS}, --classes and --image-size"
    )
    if len(args.words) != (1 if args.weights is None else 2):
        raise UsageError(f"export: {expected}, got {' '.join(args.words)}.")
    if args.batch_size is not None and args.batch_size < 1:
        raise UsageError(f"--batch-size: expected at least 1, got {args.batch_size}.")
    if args.image_size and min(args.image_size) < 1:
        raise UsageError(f"--image-size: expected at least 1 1, got {' '.join(map(str, args.image_size))}.")
