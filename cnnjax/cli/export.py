"""`cnnjax export`: a trained run or a published net as one StableHLO program that runs without cnnjax."""

import argparse
import hashlib
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from cnnjax import files
from cnnjax.cli import image_rule, modelling, published
from cnnjax.cli.class_names import read_names
from cnnjax.cli.output import Output
from cnnjax.errors import CnnjaxError, UsageError, unknown

if TYPE_CHECKING:
    import jax
    from jax.export import Exported

_PLATFORMS = ("cpu", "cuda", "tpu")
_KNOWN_PLATFORMS = (*_PLATFORMS, "rocm")


class _Classifier(NamedTuple):
    """What is exported: a function from stored images to logits, the images' shape, and the classes' names."""

    function: "Callable[[jax.Array], jax.Array]"
    image_shape: tuple[int, ...]
    class_names: list[str]


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
    parser.add_argument("--workdir", type=pathlib.Path, metavar="DIR", help="the run's workdir")
    published.add_options(parser)
    parser.add_argument(
        "--classes", type=pathlib.Path, metavar="FILE.txt", help="names of the weights' classes, one a line"
    )
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
        default=",".join(_PLATFORMS),
        metavar="NAME,NAME",
        help=f"where it is to run: any of {', '.join(_KNOWN_PLATFORMS)} (default: {','.join(_PLATFORMS)})",
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Write the program and print what it takes and gives."""
    _check(args)
    path = pathlib.Path(args.words[-1])
    # Before the work, which may take minutes.
    if path.is_dir() or not path.parent.is_dir():
        raise CnnjaxError(f"cannot write {path}: expected the name of a file in a folder that exists.")
    classifier = _trained(args, out) if args.weights is None else _published(args, out)
    program = _exported(classifier, args.platforms.split(","), args.batch_size)
    content = program.serialize()
    files.write_bytes(path, [bytes(content)])
    (images,), (logits,) = program.in_avals, program.out_avals
    shape = [size if isinstance(size, int) else str(size) for size in images.shape]
    result = {
        "out": str(path),
        "platforms": list(program.platforms),
        "input_shape": shape,
        "dtype": str(images.dtype),
        "output_dtype": str(logits.dtype),
        "num_classes": logits.shape[-1],
        "class_names": classifier.class_names,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "calling_convention_version": program.calling_convention_version,
    }
    takes = f"{images.dtype} images [{', '.join(map(str, shape))}]"
    out.result(
        result,
        [
            f"wrote {path}, {len(content) / 1e6:,.1f} MB, sha256 {result['sha256']}",
            f"{takes} to {logits.dtype} logits of {logits.shape[-1]} classes, on {', '.join(program.platforms)}",
        ],
    )
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse words that do not go together."""
    expected = "export: expected either --workdir DIR OUT or MODEL --weights FILE OUT"
    if (args.workdir is None) == (args.weights is None):
        raise UsageError(f"{expected}, since the program holds the weights.")
    if len(args.words) != (1 if args.weights is None else 2):
        raise UsageError(f"{expected}, got {' '.join(args.words)}.")
    if args.weights is None and (image_rule.given(args) or args.classes or args.image_size):
        raise UsageError(
            f"export: a run in a workdir has its own data; leave out {image_rule.NAMES}, --classes and --image-size."
        )
    if args.batch_size is not None and args.batch_size < 1:
        raise UsageError(f"--batch-size: expected at least 1, got {args.batch_size}.")
    if args.image_size and min(args.image_size) < 1:
        raise UsageError(f"--image-size: expected at least 1 1, got {' '.join(map(str, args.image_size))}.")
    for name in args.platforms.split(","):
        if name not in _KNOWN_PLATFORMS:
            raise unknown("platform", name, _KNOWN_PLATFORMS)


def _trained(args: argparse.Namespace, out: Output) -> _Classifier:
    """Return a run's net with its data's preprocessing."""
    from cnnjax import data

    state, _, described = modelling.restore(args.workdir, out)
    mean, std = tuple(described["mean"]), tuple(described["std"])
    size = tuple(described["input_shape"][:2])

    def classify(images: "jax.Array") -> "jax.Array":
        prepared = data.prepare_images(images, mean=mean, std=std, image_size=size)
        return state.apply_fn(state.variables, prepared, train=False)

    return _Classifier(classify, tuple(described["image_shape"]), described["class_names"])


def _published(args: argparse.Namespace, out: Output) -> _Classifier:
    """Return a net with weights from a file and its publisher's preprocessing."""
    model = args.words[0]
    names = read_names(args.classes)
    state, rule = published.load(args, model, out, num_classes=len(names))
    if rule is None:
        raise published.unknown_rule(model, args.weights)

    def classify(images: "jax.Array") -> "jax.Array":
        return state.apply_fn(state.variables, rule(images), train=False)

    return _Classifier(classify, (*(args.image_size or (rule.resize, rule.resize)), rule.depth), names)


def _exported(classifier: _Classifier, platforms: list[str], batch_size: int | None) -> "Exported":
    """Return the program, with its weights as constants.

    Raises:
      CnnjaxError: If the net can't be written as one that takes these images on these platforms.
    """
    import jax
    import jax.numpy as jnp
    from jax import export

    from cnnjax.receptive_field.nan_probe import plain_convolutions

    size = export.symbolic_shape("N")[0] if batch_size is None else batch_size
    images = jax.ShapeDtypeStruct((size, *classifier.image_shape), jnp.uint8)
    try:
        # The algorithms for a CPU need the sizes when they are traced, and would make another program of each machine.
        with plain_convolutions():
            return export.export(jax.jit(classifier.function), platforms=list(dict.fromkeys(platforms)))(images)
    except Exception as error:  # a user's own module may need to know the number of images, or hold a custom call
        hint = " Give --batch-size N, if it must know how many images come." if batch_size is None else ""
        raise CnnjaxError(f"the net can't be exported for images {images.shape}: {error}{hint}") from error
