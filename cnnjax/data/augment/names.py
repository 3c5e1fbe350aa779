"""Augmentations by name, as the command line and the recipes have them."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from cnnjax.batch import Batch
from cnnjax.data.augment.colour import Numbers, colour_jitter
from cnnjax.data.augment.geometry import BORDERS, cutout, flip, flip_alternating, flip_vertical, pad_crop, translate
from cnnjax.data.augment.keys import Augment
from cnnjax.data.augment.mixing import cutmix, mixup, one_of
from cnnjax.data.augment.policies import GREATEST, randaugment
from cnnjax.data.augment.resize import random_resized_crop, scale_jitter
from cnnjax.errors import UsageError, unknown


class _Form(NamedTuple):
    """What may follow a name: in words, by example, and as a pattern whose groups are the function's arguments."""

    function: Callable[..., Batch]
    usage: str
    example: str
    pattern: str
    most: dict[str, float] = {}  # noqa: RUF012
    takes_colours: bool = False


def parse(texts: Sequence[str], *, mean: Numbers = 0.0, std: Numbers = 1.0) -> Augment | None:
    """Return the augmentation that texts such as `flip` and `pad-crop:4` name, one after the other.

    Mixing comes last, wherever it is named; of `mixup` and `cutmix` together, chance takes one for each batch.

    Args:
      texts: `flip`, `flip:alternating`, `flip:vertical`, `pad-crop:PIXELS[:BORDER]`, `translate:PIXELS[:BORDER]`,
        `cutout:PIXELS`, `random-resized-crop[:SIZE]`, `scale-jitter:LOW-HIGH[:SIZE]`,
        `colour-jitter:AMOUNT` (brightness, contrast and saturation) or
        `colour-jitter:BRIGHTNESS:CONTRAST:SATURATION:HUE`, `randaugment:OPERATIONS:MAGNITUDE`, `mixup:ALPHA`,
        `cutmix:ALPHA` each.
      mean: What images are normalised with before they come to the augmentation, per channel or one number: the mean
        of images in [0, 1]. Those that change colours need it; the default is for images in [0, 1] as they are.
      std: The same for the standard deviation.
    Returns:
      `(batch, key) -> batch`, or None for no text.
    Raises:
      UsageError: If a name is not known, what follows it is not of its form, or a mixing is named twice.
    Example:
      >>> parse(["pad-crop:4", "flip"]) is None
      False
    """
    steps, mixing = [], {}
    for text in texts:
        name, step = _parse_one(text, {"mean": mean, "std": std})
        if name not in ("mixup", "cutmix"):
            steps.append(step)
        elif name in mixing:
            raise UsageError(f"augmentation {text!r}: expected {name} once, got it twice.")
        else:
            mixing[name] = step
    if len(mixing) > 1:
        steps.append(functools.partial(one_of, choices=tuple(mixing.values())))
    else:
        steps.extend(mixing.values())
    return functools.partial(_in_turn, tuple(steps)) if steps else None


def _parse_one(text: str, colours: dict[str, Numbers]) -> tuple[str, Callable[..., Batch]]:
    name, colon, words = text.partition(":")
    name = {"color-jitter": "colour-jitter"}.get(name, name)
    if name not in _FORMS:
        raise unknown("augmentation", name, _FORMS)
    form = _FORMS[name]
    found = re.fullmatch(form.pattern, f"{colon}{words}", re.ASCII)
    given: dict[str, Any] = {key: _value(word) for key, word in (found.groupdict() if found else {}).items() if word}
    limits = {key: given["high"] if key == "low" else most for key, most in form.most.items() if key in given}
    if found is None or any(given[key] > most for key, most in limits.items()):
        raise UsageError(f"augmentation {text!r}: expected {form.usage}, such as {form.example}.")
    return name, functools.partial(form.function, **given, **(colours if form.takes_colours else {}))


def _value(word: str) -> int | float | str:
    return int(word) if word.isdigit() else word if word.isalpha() else float(word)


def _in_turn(steps: Sequence[Augment], batch: Batch, key: jax.Array) -> Batch:
    for number, step in enumerate(steps):
        batch = step(batch, jax.random.fold_in(key, number))
    return batch


def _flip(batch: Batch, key: jax.Array, *, kind: str = "") -> Batch:
    return {"alternating": flip_alternating, "vertical": flip_vertical, "": flip}[kind](batch, key)


def _jitter(batch: Batch, key: jax.Array, *, amount: float | None = None, **options: Any) -> Batch:
    each = {} if amount is None else dict.fromkeys(("brightness", "contrast", "saturation"), float(amount))
    return colour_jitter(batch, key, **{**each, **options})


def _mix(function: Callable[..., Batch]) -> Callable[..., Batch]:
    return lambda batch, key, *, alpha: function(batch, key, alpha=float(alpha))


_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_SHIFT = rf":(?P<pixels>\d+)(?::(?P<border>{'|'.join(BORDERS)}))?"
_SIZE = r"(?::(?P<size>0*[1-9]\d*))?"
_ALPHA = rf":(?P<alpha>(?=[\d.]*[1-9]){_NUMBER})"
_JITTER = ":".join(f"(?P<{name}>{_NUMBER})" for name in ("brightness", "contrast", "saturation", "hue"))
_BORDERS = f"BORDER one of {', '.join(BORDERS)}"
_FORMS = {
    "flip": _Form(
        _flip, "flip, flip:alternating or flip:vertical", "flip:alternating", "(?::(?P<kind>alternating|vertical))?"
    ),
    "translate": _Form(translate, f"translate:PIXELS or translate:PIXELS:BORDER, {_BORDERS}", "translate:4", _SHIFT),
    "pad-crop": _Form(pad_crop, f"pad-crop:PIXELS or pad-crop:PIXELS:BORDER, {_BORDERS}", "pad-crop:4", _SHIFT),
    "cutout": _Form(cutout, "cutout:PIXELS", "cutout:16", r":(?P<size>\d+)"),
    "random-resized-crop": _Form(
        random_resized_crop, "random-resized-crop or random-resized-crop:SIZE", "random-resized-crop:224", _SIZE
    ),
    "scale-jitter": _Form(
        scale_jitter,
        "scale-jitter:LOW-HIGH or scale-jitter:LOW-HIGH:SIZE",
        "scale-jitter:256-512",
        rf":(?P<low>\d+)-(?P<high>\d+){_SIZE}",
        {"low": float("inf")},  # at most the other
    ),
    "colour-jitter": _Form(
        _jitter,
        "colour-jitter:AMOUNT or colour-jitter:BRIGHTNESS:CONTRAST:SATURATION:HUE, HUE at most 0.5",
        "colour-jitter:0.4",
        f":(?:(?P<amount>{_NUMBER})|{_JITTER})",
        {"hue": 0.5},
        takes_colours=True,
    ),
    "randaugment": _Form(
        randaugment,
        f"randaugment:OPERATIONS:MAGNITUDE, MAGNITUDE at most {GREATEST}",
        "randaugment:2:9",
        r":(?P<num_ops>\d+):(?P<magnitude>\d+)",
        {"magnitude": GREATEST},
        takes_colours=True,
    ),
    "mixup": _Form(_mix(mixup), "mixup:ALPHA, ALPHA more than 0", "mixup:0.2", _ALPHA),
    "cutmix": _Form(_mix(cutmix), "cutmix:ALPHA, ALPHA more than 0", "cutmix:1.0", _ALPHA),
}
