"""`cnnjax receptive-field`: which pixels a unit of a model reads, and how much each matters."""

import argparse
import pathlib
from typing import Any

from cnnjax import model_loading
from cnnjax.cli import classifier_options
from cnnjax.cli.output import Output, table
from cnnjax.errors import CnnjaxError, UsageError


def add_parser(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "receptive-field", parents=[common], help="which pixels a unit of a model reads, exactly and measured"
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
    parser.add_argument("--output", metavar="LAYER", help="linen scope of the value (default: the last feature map)")
    parser.add_argument(
        "--unit", type=int, nargs=2, metavar=("ROW", "COLUMN"), help="the unit to look at (default: the middle one)"
    )
    parser.add_argument("--layers", action="store_true", help="the field after every layer as well")
    parser.add_argument("--measured", action="store_true", help="measure the effective field by gradients")
    parser.add_argument("--samples", type=int, default=16, metavar="N", help="gradients to average (default 16)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of noise and fresh parameters (default 0)")
    classifier_options.add_set(parser)
    classifier_options.add_weights(parser)
    parser.add_argument(
        "--image",
        type=pathlib.Path,
        metavar="FILE",
        help="photo to measure on and to draw over; with --weights prepared as their publisher did, else standardised",
    )
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE", help="draw it as .png or .svg")
    parser.add_argument(
        "--growth",
        type=pathlib.Path,
        metavar="FILE",
        help="draw the field after every layer, with --measured the effective one too, as .png or .svg",
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Print size, stride and padding, and what else was asked for."""
    from cnnjax import receptive_field as rf

    _check(args)
    for path in filter(None, (args.plot, args.growth)):
        from cnnjax.receptive_field.plot import check_path

        check_path(path)
    model, shape = model_loading.shaped(args.model, args.input_shape, options=args.model_options or ())
    photo = None if args.image is None else _photo(args.image, shape, out)
    field = rf.receptive_field(model, shape, args.output)
    unit = tuple(args.unit) if args.unit else tuple(count // 2 for count in field.units)
    try:
        interval = field.interval(unit)
    except (IndexError, ValueError) as error:
        raise UsageError(f"--unit: {str(error).removeprefix('interval: ')}") from error
    result: dict[str, Any] = {
        "model": args.model,
        "input_shape": list(shape),
        "layer": field.name,
        "output_shape": list(field.output_shape),
        "size": list(field.size),
        "stride": list(field.stride),
        "padding": list(field.padding),
        "centre": list(field.centre),
        "unit": list(unit),
        "interval": [None if pair is None else list(pair) for pair in interval],
        "exact": field.exact,
        "notes": list(field.notes),
    }
    who = f"unit {unit}" if field.units else "each unit"
    lines = [str(field), f"  {who} reads rows {_words(interval[0])} and columns {_words(interval[1])}"]
    if args.layers:
        rows = rf.trace(model, shape)
        result["layers"] = [
            {
                "path": r.path,
                "kind": r.kind,
                "output_shape": list(r.output_shape),
                "size": list(r.field.size),
                "stride": list(r.field.stride),
                "padding": list(r.field.padding),
            }
            for r in rows
        ]
        lines += _table(rows)
    heat, sources = None, {}
    if args.measured:
        sources = _sources(args, model, photo, out)
        heat = _checked(rf.measure, model, shape, unit=unit, output=args.output, **sources)
        result["measured"], more = _described(heat)
        lines += more
    if args.plot is not None:
        title = f"{args.model}: {field.name}, {who}"
        _drawn(rf.plot, heat, field, index=unit, image=photo, path=args.plot, title=title)
        result["plot"] = str(args.plot)
        lines.append(f"  drawn to {args.plot}")
    if args.growth is not None:
        rows = _checked(rf.growth, model, shape, **sources) if args.measured else rf.trace(model, shape)
        _drawn(rf.plot_growth, rows, path=args.growth, title=f"{args.model}: receptive field after each layer")
        result["growth"] = str(args.growth)
        lines.append(f"  drawn to {args.growth}")
    out.result(result, lines)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.samples < 1:
        raise UsageError(f"--samples: expected at least 1, got {args.samples}.")
    if not 0 <= args.seed < 2**32:
        raise UsageError(f"--seed: expected 0 to {2**32 - 1}, got {args.seed}.")
    if args.weights is not None and not args.measured:
        raise UsageError("--weights: expected --measured too, since what is read does not depend on weights.")


def _photo(path: pathlib.Path, shape: tuple[int, int, int], out: Output) -> Any:
    """Return the photo as uint8 `[H, W, C]`, its middle resized to what the model takes."""
    from cnnjax import data

    if shape[2] not in (1, 3):
        raise UsageError(f"--image: expected a model of 1 or 3 channels, got {shape[2]}.")
    image, done = data.load_image(path, shape)
    out.say(f"{path}: {done}")
    return image


def _sources(args: argparse.Namespace, model: Any, photo: Any, out: Output) -> dict[str, Any]:
    """Return what a measurement takes: weights, images, how many samples, of which seed."""
    import jax

    from cnnjax import pretrained
    from cnnjax.classifier import sources

    variables = rule = None
    if args.weights is not None:
        path = classifier_options.weights_path(args, args.model, out)
        variables, report = pretrained.load(model, path, **classifier_options.load_options(args))
        for note in report.notes:
            out.say(f"{path}: {note}")
        rule = classifier_options.chosen_preprocess(args, args.model) or sources.known_preprocess(args.model, path)
    images = None if photo is None else _normalised(photo, rule, out)[None]
    return {"samples": args.samples, "key": jax.random.key(args.seed), "variables": variables, "images": images}


def _normalised(photo: Any, rule: Any, out: Output) -> Any:
    import numpy as np

    if rule is not None and photo.shape[-1] == 3:
        out.say(f"colours: {rule.channels}, (pixel * {rule.scale:.4g} - {rule.mean}) / {rule.std}")
        return np.asarray(rule.normalize(photo))
    pixels = photo.astype(np.float32)
    return (pixels - pixels.mean()) / max(float(pixels.std()), 1e-3)


def _checked(measure: Any, *args: Any, **options: Any) -> Any:
    """Measure, and turn what can't be measured into one line."""
    try:
        return measure(*args, **options)
    except ValueError as error:
        raise error if isinstance(error, CnnjaxError) else CnnjaxError(str(error)) from error


def _described(heat: Any) -> tuple[dict[str, Any], list[str]]:
    from cnnjax import receptive_field as rf

    (height, width), (inner_height, inner_width) = rf.effective_size(heat), rf.effective_size(heat, 0.6827)
    result: dict[str, Any] = {"effective_size": [height, width], "effective_size_68": [inner_height, inner_width]}
    lines = [
        f"  effective: 95.45 % of |gradient| within {height:.1f} x {width:.1f} pixels, "
        f"68.27 % within {inner_height:.1f} x {inner_width:.1f}"
    ]
    try:
        fit = rf.fit_gaussian(heat)
    except ValueError:
        return result, lines
    result |= {"sigma": list(fit.sigma), "centre": list(fit.centre), "r_squared": fit.r_squared}
    lines.append(f"  Gaussian: sigma {fit.sigma[0]:.1f} x {fit.sigma[1]:.1f} pixels, R² {fit.r_squared:.3f}")
    return result, lines


def _drawn(draw: Any, *args: Any, **options: Any) -> None:
    try:
        draw(*args, **options)
    except ModuleNotFoundError as error:
        raise CnnjaxError(f"a picture needs {error.name}: pip install 'cnnjax[plot]'.") from error


def _words(pair: tuple[int, int] | None) -> str:
    return "none" if pair is None else f"{pair[0]} to {pair[1]}"


def _table(rows: Any) -> list[str]:
    cells = [["layer", "kind", "output", "size", "stride", "padding"]]
    for row in rows:
        numbers = (row.field.size, row.field.stride, row.field.padding)
        cells.append([row.path, row.kind, "x".join(map(str, row.output_shape[1:])), *map(_numbers, numbers)])
    return table(cells)


def _numbers(pair: Any) -> str:
    words = ["-" if number is None else f"{number:g}" for number in pair]
    return words[0] if len(set(words)) == 1 else "x".join(words)
