"""What the model families share: the check of their input and the ends without a classifier."""

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import ops
from cnnjax.errors import UsageError, channels_first, unknown


def check_images(model: str, x: jax.Array, *, smallest: int = 1, layer: str = "") -> None:
    """Refuse, while tracing, what is not a batch of float images of at least `smallest` pixels a side.

    Args:
      model: Name for the message.
      x: What the model was called with.
      smallest: Pixels a side below which some layer would have nothing to read.
      layer: The first layer that would have nothing to read.
    Raises:
      ValueError: If the rank is wrong.
      UsageError: If the images are too small, or have their channels first.
      TypeError: If it is no array, or the dtype is not a float.
    """
    if not isinstance(x, np.ndarray | jax.Array):
        kind = f"{type(x).__module__.split('.')[0]}.{type(x).__name__}" if hasattr(x, "shape") else type(x).__name__
        fix = "x.permute(0, 2, 3, 1).numpy()" if kind == "torch.Tensor" else "np.asarray(x, np.float32)"
        raise TypeError(f"{model}: expected an array of NumPy or JAX, got {kind}. Write {fix}.")
    if x.ndim != 4:
        hint = " Add a batch axis: x[None]." if x.ndim == 3 else ""
        raise ValueError(f"{model}: expected images of rank 4 [N, H, W, C], got shape {tuple(x.shape)}.{hint}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{model}: expected float images, got {x.dtype}. Scale them first, for example x / 255.")
    if hint := channels_first(x.shape):
        raise UsageError(f"{model}: expected images [N, H, W, C]. {hint}")
    if min(x.shape[1:3]) < smallest:
        raise UsageError(
            f"{model}: expected images of at least {smallest}x{smallest} pixels, got {x.shape[1]}x{x.shape[2]}, of "
            f"which {layer} would have nothing to read. Resize them first (--image-size on the command line)."
        )


def headless_output(x: jax.Array, pooling: str | None) -> jax.Array:
    """Return a feature map as a model without its top does.

    Args:
      x: Features, `[N, H, W, C]`.
      pooling: `avg` or `max` over space, or None for the map as it is.
    Returns:
      `[N, C]`, or `[N, H, W, C]` for None.
    Raises:
      UsageError: If `pooling` is none of these.
    """
    if pooling is None:
        return x
    if pooling == "avg":
        return ops.global_avg_pool(x)  # keeps a NaN that a plain mean of a ReLU loses on a CPU
    if pooling == "max":
        # Not jnp.max, which XLA for the CPU compiles to a reduction that can drop a NaN.
        return ops.max_pool(x, x.shape[1:3])[:, 0, 0]
    raise unknown("pooling", str(pooling), ["avg", "max"])
