"""The options of `cnnjax train`, and what can be refused of them before anything is loaded."""

import argparse
import math
import pathlib

from cnnjax import model_loading, recipes
from cnnjax.cli import classifier_options, loading
from cnnjax.errors import UsageError, unknown
from cnnjax.recipes import Recipe

# What says how a file of weights is read and how its images are prepared.
OF_WEIGHTS = ("preprocess", "mean", "std", "crop", "prefix", "rules", "which")
_MONITORED = tuple(f"{split}_{metric}" for split in ("train", "val") for metric in ("loss", "accuracy", "top5"))


def add(parser: argparse.ArgumentParser) -> None:
    """Add every option, in groups."""
    _add_recipe(parser)
    _add_optimizer(parser.add_argument_group("optimizer"))
    _add_regularisation(parser.add_argument_group("regularisation"))
    _add_run(parser.add_argument_group("the run"))
    _add_machine(parser.add_argument_group("the machine"))
    weights = parser.add_argument_group("starting from weights")
    classifier_options.add_weights(weights)
    classifier_options.add_images(weights)
    loading.add_options(parser)


def check(recipe: Recipe, args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is loaded.

    Raises:
      UsageError: With the option, what it expects and what it got.
    """
    from cnnjax.training import LOSSES, OPTIMIZERS, SCHEDULES

    model_loading.build_model(recipe.model, 10, options=recipe.model_options)
    loading.check_name(recipe.dataset)
    for name in OF_WEIGHTS if args.weights is None else ():
        if getattr(args, name) is not None:
            raise UsageError(f"--{name}: it is about weights that a run starts from. Give --weights FILE too.")
    if recipe.pixel_range and not recipe.pixel_range[0] < recipe.pixel_range[1]:
        low, high = recipe.pixel_range
        raise UsageError(f"--pixel-range: expected LOW less than HIGH, got {low:g} {high:g}.")
    for kind, name, known in (
        ("optimizer", recipe.optimizer, OPTIMIZERS),
        ("schedule", recipe.schedule, SCHEDULES),
        ("metric to monitor", recipe.monitor, _MONITORED),
        ("precision", recipe.precision, model_loading.PRECISIONS),
        ("answer to numbers that are not finite", recipe.on_nan, ("stop", "skip")),
        ("loss", recipe.loss, LOSSES),
        ("way of weighting classes", recipe.class_weights or "balanced", ("balanced",)),
        ("way of sampling", recipe.sampling or "balanced", ("balanced",)),
        ("choice of what decays", recipe.decay_mask, ("all", "kernels")),
    ):
        if name not in known:
            raise unknown(kind, name, known)
    _check_numbers(recipe, args)
    _check_used(recipe, args)
    _check_composed(recipe, args)


def rate_factors(recipe: Recipe) -> dict[str, float]:
    """Return what `--lr-multipliers REGEX=FACTOR...` says.

    Raises:
      UsageError: If a text is not of that form.
    """
    factors = {}
    for text in recipe.lr_multipliers:
        pattern, equals, number = text.rpartition("=")
        try:
            factors[pattern] = float(number)
        except ValueError:
            equals = ""
        if not (pattern and equals):
            raise UsageError(f"--lr-multipliers: expected REGEX=FACTOR, such as '^stem=0.1', got {text!r}.")
    if len(factors) < len(recipe.lr_multipliers):
        raise UsageError(f"--lr-multipliers: expected each REGEX once, got {' '.join(recipe.lr_multipliers)}.")
    return factors


def _check_numbers(recipe: Recipe, args: argparse.Namespace) -> None:
    for name, value in vars(recipe).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"--{name.replace('_', '-')}: expected a finite number, got {value}.")
    numbers = {"--epochs": recipe.epochs, "--batch-size": recipe.batch_size, "--image-size": recipe.image_size}
    numbers |= {"--patience": recipe.patience, "--checkpoint-every": args.checkpoint_every}
    numbers |= {"--accumulate": recipe.accumulate, "--devices": args.devices, "--keep": args.keep}
    for option, number in numbers.items():
        if number is not None and number < 1:
            raise UsageError(f"{option}: expected at least 1, got {number}.")
    if not 0 <= args.seed < 2**32:  # beyond that, JAX keeps only the lower half
        raise UsageError(f"--seed: expected 0 to {2**32 - 1}, got {args.seed}.")
    if not 0 <= recipe.warmup_epochs < recipe.epochs:
        raise UsageError(f"--warmup-epochs: expected 0 to less than the epochs, got {recipe.warmup_epochs}.")
    if recipe.clip_norm is not None and not recipe.clip_norm > 0:
        raise UsageError(f"--clip-norm: expected more than 0, got {recipe.clip_norm}.")
    if not 0 <= recipe.label_smoothing < 1:
        raise UsageError(f"--label-smoothing: expected a number in [0, 1), got {recipe.label_smoothing}.")
    if recipe.ema is not None and not 0 < recipe.ema < 1:
        raise UsageError(f"--ema: expected a decay in (0, 1), such as 0.999, got {recipe.ema}.")


def _check_used(recipe: Recipe, args: argparse.Namespace) -> None:
    """Refuse what was asked for, by name, where the choices beside it leave it no use."""
    from cnnjax.training.optim import unused_options

    unused = unused_options(optimizer=recipe.optimizer, schedule=recipe.schedule, weight_decay=recipe.weight_decay)
    unused = {{"factor": "lr_decay"}.get(name, name): reason for name, reason in unused.items()}
    if recipe.class_weights:
        unused["sampling"] = "classes count alike already. Leave it out, or --class-weights"
    if recipe.loss == "mse":
        unused["label_smoothing"] = "the mse loss has none. Leave it out, or take softmax or sigmoid"
    if recipe.patience is None:
        unused["min_delta"] = "nothing stops early. Leave it out, or give --patience"
        if not args.keep_best:
            unused["monitor"] = "nothing is watched. Leave it out, or give --patience or --keep-best"
    for name, reason in unused.items():
        if getattr(args, name) not in (None, "all"):
            raise UsageError(f"--{name.replace('_', '-')}: {reason}.")


def _check_composed(recipe: Recipe, args: argparse.Namespace) -> None:
    from cnnjax.data import augment
    from cnnjax.training import EarlyStopping

    augment.parse(recipe.augment)
    rate_factors(recipe)
    profile_window(args)
    if recipe.patience is not None:
        EarlyStopping(recipe.monitor, recipe.patience, recipe.min_delta)
    if not all(0 < share < 1 for share in recipe.boundaries) or not 0 < recipe.lr_decay < 1:
        raise UsageError(
            f"--boundaries, --lr-decay: expected numbers in (0, 1), got {recipe.boundaries} and {recipe.lr_decay}."
        )
    if recipe.batch_size % recipe.accumulate:
        raise UsageError(
            f"--accumulate: expected a divisor of the batch size, {recipe.batch_size}, got {recipe.accumulate}."
        )


def profile_window(args: argparse.Namespace) -> tuple[int, int] | None:
    """Return the first step to profile and the one after the last, or None.

    Raises:
      UsageError: If the option is not of the form STEP:STEP.
    """
    if args.profile is None:
        return None
    first, _, last = args.profile.partition(":")
    numbers = args.profile.isascii() and first.isdigit() and last.isdigit()
    if not numbers or int(first) >= int(last):
        raise UsageError(f"--profile: expected STEP:STEP, the first smaller, such as 10:20, got {args.profile!r}.")
    return int(first), int(last)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="model name, or package.module:Class of a linen module")
    add(
        "--dataset",
        metavar="NAME",
        help="dataset name (cnnjax data list), folder:DIR (a folder a class) or tfds:NAME",
    )
    add(
        "--recipe",
        metavar="NAME",
        help=f"one of: {', '.join(recipes.available())}; default: the model's and dataset's own",
    )
    add("--epochs", type=int, metavar="N", help="epochs at most")
    add("--batch-size", type=int, metavar="N", help="examples a step, on all devices together")
    add("--image-size", type=int, metavar="PIXELS", help="resize images to this side, inside jit")
    loading.add_pixel_range(parser)
    add("--validation", type=int, metavar="N", help="examples taken out of the training set for validation")
    add("--seed", type=int, default=0, metavar="N", help="decides initial values, order and augmentation")
    classifier_options.add_set(parser)
    add(
        "--freeze",
        metavar="REGEX",
        help="keep parameters and statistics whose path matches, such as '^(stem|stage[12])'",
    )


def _add_optimizer(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--optimizer", metavar="NAME", help="sgd, momentum, nesterov, adam, adamw, lars, lamb, rmsprop")
    add("--learning-rate", "--lr", type=float, metavar="X", help="greatest learning rate")
    add("--schedule", metavar="NAME", help="constant, cosine, step, one-cycle")
    add("--warmup-epochs", type=float, metavar="X", help="epochs of linear rise before the schedule")
    add("--boundaries", type=float, nargs="*", metavar="X", help="step schedule: where the rate falls, in (0, 1)")
    add("--lr-decay", "--factor", type=float, metavar="X", help="step schedule: what the rate is multiplied by there")
    add("--momentum", type=float, metavar="X", help="for momentum, nesterov, lars and rmsprop")
    add("--lr-multipliers", "--rates", nargs="*", metavar="REGEX=X", help="multiply the rate by path: '^stem=0.1'")
    add("--clip-norm", type=float, metavar="X", help="greatest norm of the gradients")
    add("--accumulate", type=int, metavar="N", help="micro-batches a step; batch norm's statistics are one's own")
    add(
        "--on-nan", metavar="stop|skip", help="end at a step that is not finite (default), or leave it out and count it"
    )


def _add_regularisation(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--weight-decay", type=float, metavar="X", help="decoupled for adamw, lamb and lars, else L2")
    add("--decay-mask", "--decay", metavar="all|kernels", help="kernels: no biases, nothing of normalisation's")
    add("--loss", metavar="NAME", help="softmax (default), sigmoid (each class by itself), mse (of the logits)")
    add("--class-weights", metavar="balanced", help="weigh examples so that all classes count alike in training")
    add("--sampling", metavar="balanced", help="draw as many examples of each class an epoch")
    add("--label-smoothing", type=float, metavar="X", help="in [0, 1)")
    add(
        "--augment",
        nargs="*",
        metavar="NAME:N",
        help="such as flip, pad-crop:4, colour-jitter:0.4, randaugment:2:9, mixup:0.2",
    )
    add("--aux-weight", type=float, metavar="X", help="weight of an auxiliary head's loss")
    add("--ema", type=float, metavar="DECAY", help="keep moving averages, and evaluate with them, such as 0.999")
    tta = {"action": argparse.BooleanOptionalAction, "help": "evaluate each image together with its mirror image"}
    add("--flip-tta", "--test-flip", **tta)
    add("--monitor", metavar="NAME", help="what early stopping watches, such as val_loss or val_accuracy")
    add("--patience", type=int, metavar="N", help="epochs without improvement before stopping early")
    add("--min-delta", type=float, metavar="X", help="what counts as an improvement")


def _add_run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--workdir", type=pathlib.Path, metavar="DIR", help="where the run lives; the same command again resumes it")
    add("--checkpoint-every", type=int, metavar="STEPS", help="save within epochs too")
    add("--keep", type=int, default=2, metavar="N", help="how many of the newest checkpoints to keep (default: 2)")
    add("--keep-best", action="store_true", help="keep the best epoch's checkpoint too, by --monitor")
    add("--no-tensorboard", action="store_true", help="write no TensorBoard files")
    add("--profile", metavar="STEP:STEP", help="record these steps for TensorBoard or Perfetto")
    add("--dry-run", action="store_true", help="compile and take a few steps: shapes, memory, times; nothing is kept")


def _add_machine(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--precision", metavar="NAME", help="float32 or bfloat16, what layers compute in; parameters stay float32")
    add(
        "--remat",
        action=argparse.BooleanOptionalAction,
        help="compute cheap values again in the backward pass: less memory, more time",
    )
    add("--devices", type=int, metavar="N", help="devices to share each batch (default: all)")
    add("--distributed", action="store_true", help="join the other processes of a SLURM, Kubernetes or TPU job")
    add("--coordinator", metavar="HOST:PORT", help="where process 0 of several listens; needs the next two")
    add("--processes", type=int, metavar="N", help="processes in all")
    add("--process", type=int, metavar="I", help="number of this one, from 0")
