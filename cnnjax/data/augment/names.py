"""Augmentations by name, as the command line and the recipes have them."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from cnnjax.batch import Batch
from cnnjax.data.augment.colour import Numbers, colour_jitter
from cnnjax.data.augment.geometry import BORDERS, cutout, flip, flip_alternating, flip_vertical, pad_crop, translate
from cnnjax.data.augment.keys import Augment
from cnnjax.data.augment.mixing import cutmix, mixup, one_of
from cnnjax.data.augment.policies import GREATEST, randaugment
from cnnjax.data.augment.resize import random_resized_crop, scale_jitter
from cnnjax.errors import UsageError, unknown


class _UnfitError(Exception):
    """The words after a name are not of its form."""


class _Form(NamedTuple):
    """What follows a name, in words and by example, and what makes the function of it."""

    usage: str
    example: str
    make: Callable[[list[str]], Callable[..., Batch]]


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
        name, step = _parse_one(text)
        if name not in _MIXING:
            takes_colours = name in ("colour-jitter", "randaugment")
            steps.append(functools.partial(step, mean=mean, std=std) if takes_colours else step)
        elif name in mixing:
            raise UsageError(f"augmentation {text!r}: expected {name} once, got it twice.")
        else:
            mixing[name] = step
    if len(mixing) > 1:
        steps.append(functools.partial(one_of, choices=tuple(mixing.values())))
    else:
        steps.extend(mixing.values())
    return functools.partial(_in_turn, tuple(steps)) if steps else None


def _parse_one(text: str) -> tuple[str, Callable[..., Batch]]:
    name, *words = text.split(":")
    name = {"color-jitter": "colour-jitter"}.get(name, name)
    if name not in _FORMS:
        raise unknown("augmentation", name, _FORMS)
    form = _FORMS[name]
    try:
        return name, form.make(words)
    except _UnfitError:
        raise UsageError(f"augmentation {text!r}: expected {form.usage}, such as {form.example}.") from None


def _in_turn(steps: Sequence[Augment], batch: Batch, key: jax.Array) -> Batch:
    for number, step in enumerate(steps):
        batch = step(batch, jax.random.fold_in(key, number))
    return batch


def _whole(word: str, most: int | None = None) -> int:
    if not (word.isascii() and word.isdigit()) or (most is not None and int(word) > most):
        raise _UnfitError
    return int(word)


def _number(word: str, most: float | None = None) -> float:
    if not re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", word) or (most is not None and float(word) > most):
        raise _UnfitError
    return float(word)


def _positive(word: str, read: Callable[[str], float] = _number) -> float:
    number = read(word)
    if not number > 0:
        raise _UnfitError
    return number


def _size(words: list[str]) -> dict[str, int]:
    """Return the argument that a last word, or none, stands for."""
    if len(words) > 1:
        raise _UnfitError
    return {"size": int(_positive(words[0], _whole))} if words else {}


def _flip(words: list[str]) -> Augment:
    kinds = {(): flip, ("alternating",): flip_alternating, ("vertical",): flip_vertical}
    if tuple(words) not in kinds:
        raise _UnfitError
    return kinds[tuple(words)]


def _shift(function: Callable[..., Batch], words: list[str]) -> Augment:
    if len(words) not in (1, 2) or not set(words[1:]) <= set(BORDERS):
        raise _UnfitError
    border = {"border": words[1]} if len(words) > 1 else {}
    return functools.partial(function, pixels=_whole(words[0]), **border)


def _cutout(words: list[str]) -> Augment:
    if len(words) != 1:
        raise _UnfitError
    return functools.partial(cutout, size=_whole(words[0]))


def _random_resized_crop(words: list[str]) -> Augment:
    return functools.partial(random_resized_crop, **_size(words))


def _scale_jitter(words: list[str]) -> Augment:
    if not words:
        raise _UnfitError
    low, _, high = words[0].partition("-")
    most = _whole(high)
    return functools.partial(scale_jitter, low=_whole(low, most), high=most, **_size(words[1:]))


def _colour_jitter(words: list[str]) -> Augment:
    amounts = ("brightness", "contrast", "saturation")
    if len(words) == 1:
        return functools.partial(colour_jitter, **dict.fromkeys(amounts, _number(words[0])))
    if len(words) != 4:
        raise _UnfitError
    return functools.partial(colour_jitter, **dict(zip(amounts, map(_number, words))), hue=_number(words[3], 0.5))


def _randaugment(words: list[str]) -> Augment:
    if len(words) != 2:
        raise _UnfitError
    return functools.partial(randaugment, num_ops=_whole(words[0]), magnitude=_whole(words[1], GREATEST))


def _mix(function: Callable[..., Batch], words: list[str]) -> Augment:
    if len(words) != 1:
        raise _UnfitError
    return functools.partial(function, alpha=_positive(words[0]))


_BORDERS = f"BORDER one of {', '.join(BORDERS)}"
_MIXING = ("mixup", "cutmix")
_FORMS = {
    "flip": _Form("flip, flip:alternating or flip:vertical", "flip:alternating", _flip),
    "translate": _Form(
        f"translate:PIXELS or translate:PIXELS:BORDER, {_BORDERS}", "translate:4", functools.partial(_shift, translate)
    ),
    "pad-crop": _Form(
        f"pad-crop:PIXELS or pad-crop:PIXELS:BORDER, {_BORDERS}", "pad-crop:4", functools.partial(_shift, pad_crop)
    ),
    "cutout": _Form("cutout:PIXELS", "cutout:16", _cutout),
    "random-resized-crop": _Form(
        "random-resized-crop or random-resized-crop:SIZE", "random-resized-crop:224", _random_resized_crop
    ),
    "scale-jitter": _Form("scale-jitter:LOW-HIGH or scale-jitter:LOW-HIGH:SIZE", "scale-jitter:256-512", _scale_jitter),
    "colour-jitter": _Form(
        "colour-jitter:AMOUNT or colour-jitter:BRIGHTNESS:CONTRAST:SATURATION:HUE, HUE at most 0.5",
        "colour-jitter:0.4",
        _colour_jitter,
    ),
    "randaugment": _Form(
        f"randaugment:OPERATIONS:MAGNITUDE, MAGNITUDE at most {GREATEST}", "randaugment:2:9", _randaugment
    ),
    "mixup": _Form("mixup:ALPHA, ALPHA more than 0", "mixup:0.2", functools.partial(_mix, mixup)),
    "cutmix": _Form("cutmix:ALPHA, ALPHA more than 0", "cutmix:1.0", functools.partial(_mix, cutmix)),
}
