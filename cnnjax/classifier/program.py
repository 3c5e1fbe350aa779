"""A function from images to logits as one StableHLO program."""

import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import export

from cnnjax.errors import CnnjaxError, UsageError, unknown
from cnnjax.ops.dispatch import plain_convolutions

PLATFORMS = ("cpu", "cuda", "tpu")
KNOWN_PLATFORMS = (*PLATFORMS, "rocm")
# Endings that promise another format.
_FORMATS = {
    ".onnx": "ONNX",
    ".tflite": "TensorFlow Lite",
    ".pb": "TensorFlow",
    ".keras": "Keras",
    ".h5": "Keras",
    ".pt": "PyTorch",
    ".pth": "PyTorch",
    ".mlmodel": "Core ML",
    ".mlpackage": "Core ML",
    ".engine": "TensorRT",
}


def check_path(path: str | pathlib.Path) -> None:
    """Refuse a file that can't be written, or whose ending promises another format, before any work is done.

    Raises:
      UsageError: If the ending is another format's.
      CnnjaxError: If it is a folder, or in none.
    """
    path = pathlib.Path(path)
    ending = path.suffix.lower()
    if ending == ".safetensors":
        raise UsageError(f"{path}: a program is not weights. Write those: cnnjax weights convert MODEL FILE {path}")
    if ending in _FORMATS:
        command = f"cnnjax export ... {path.with_suffix('.stablehlo')}"
        raise UsageError(f"{path}: what is written is StableHLO, not {_FORMATS[ending]}. Type {command}")
    if path.is_dir() or not path.parent.is_dir():
        raise CnnjaxError(f"cannot write {path}: expected the name of a file in a folder that exists.")


def check_platforms(platforms: Sequence[str]) -> None:
    """Refuse a platform that is not known."""
    for name in platforms:
        if name not in KNOWN_PLATFORMS:
            raise unknown("platform", name, KNOWN_PLATFORMS)


def make(
    function: Callable[[jax.Array], jax.Array],
    image_shape: Sequence[int],
    batch_size: int | None,
    platforms: Sequence[str],
) -> export.Exported:
    """Return the program, with its weights as constants.

    Args:
      function: From uint8 images to logits.
      image_shape: `(H, W, C)` of the images.
      batch_size: How many come at once; None for any number.
      platforms: Of `KNOWN_PLATFORMS`.
    Raises:
      CnnjaxError: If the net can't be written as one that takes these images on these platforms.
    """
    check_platforms(platforms)
    size = export.symbolic_shape("N")[0] if batch_size is None else batch_size
    images = jax.ShapeDtypeStruct((size, *image_shape), jnp.uint8)
    try:
        # The algorithms for a CPU need the sizes when they are traced, and would make another program of each machine.
        with plain_convolutions():
            return export.export(jax.jit(function), platforms=list(dict.fromkeys(platforms)))(images)
    except Exception as error:  # a user's own module may need to know the number of images, or hold a custom call
        hint = " Give the number of images (--batch-size N), if it must know it." if batch_size is None else ""
        raise CnnjaxError(f"the net can't be exported for images {images.shape}: {error}{hint}") from error
