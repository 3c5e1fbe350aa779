"""Data parallelism by JAX's own engine: a mesh of devices, batches laid over it, everything else copied to each.

A jitted function of arrays that lie so is one program on all devices, and computes what it computes on one: means, and
with them batch norm's statistics, are over the whole batch.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnnjax.errors import UsageError

AXIS = "data"


def data_mesh(devices: Sequence[Any] | int | None = None) -> Mesh:
    """Return the mesh over whose one axis, `data`, batches are laid.

    Args:
      devices: JAX's devices, or how many of those that there are; None for all, those of other hosts included.
    Raises:
      UsageError: If there are fewer.
    Example:
      >>> dict(data_mesh(1).shape)
      {'data': 1}
    """
    if devices is None or isinstance(devices, int):
        found = jax.devices()
        wanted = len(found) if devices is None else devices
        if not 1 <= wanted <= len(found):
            raise UsageError(f"devices: expected 1 to {len(found)}, as many as there are, got {wanted}.")
        devices = found[:wanted]
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Return the arrays with a copy on each of the mesh's devices.

    Args:
      tree: Arrays, or arrays in containers; on several hosts the same on each.
      mesh: The devices.
    """
    return jax.tree.map(lambda x: _place(x, NamedSharding(mesh, PartitionSpec())), tree)


def shard_rows(tree: Any, mesh: Mesh) -> Any:
    """Return the arrays with their rows laid over the mesh's devices, one part on each.

    Args:
      tree: NumPy arrays `[N, ...]`, N a multiple of the number of devices. On several hosts each has them all, and only
        the rows of its own devices are read (see `own_rows`).
      mesh: The devices.
    """
    return jax.tree.map(lambda x: _place(x, NamedSharding(mesh, PartitionSpec(AXIS))), tree)


def own_rows(rows: int, mesh: Mesh | None) -> np.ndarray:
    """Return which rows of a batch lie on this host's devices, bool, `[rows]`; all of them without a mesh.

    Args:
      rows: Rows in all, a multiple of the number of devices.
      mesh: The devices.
    """
    if mesh is None:
        return np.ones(rows, bool)
    own = np.zeros(rows, bool)
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    for part in sharding.addressable_devices_indices_map((rows,)).values():
        if part is not None:
            own[part[0]] = True
    return own


def padded_batch_size(batch_size: int, mesh: Mesh | None) -> int:
    """Return the smallest batch, not below that size, that the mesh's devices divide evenly.

    Args:
      batch_size: Examples.
      mesh: The devices; None for one.
    """
    count = 1 if mesh is None else mesh.devices.size
    return math.ceil(batch_size / count) * count


def check_batch_size(batch_size: int, mesh: Mesh | None) -> None:
    """Refuse a training batch that the devices cannot divide evenly: filling it up would change its statistics.

    Args:
      batch_size: Examples a step.
      mesh: The devices; None for one.
    Raises:
      UsageError: If it can't be divided.
    """
    if padded_batch_size(batch_size, mesh) != batch_size:
        count = 1 if mesh is None else mesh.devices.size
        near = batch_size // count * count or count
        raise UsageError(f"batch size {batch_size} can't be divided by {count} devices: {near}, for example, can.")


def _place(x: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(x, jax.Array):
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            words = _place(np.asarray(jax.random.key_data(x)), sharding)
            return jax.random.wrap_key_data(words, impl=str(jax.random.key_impl(x)))
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])
