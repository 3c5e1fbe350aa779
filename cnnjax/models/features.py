"""What a net computes on the way: named stages and the outputs of its modules."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from cnnjax.errors import unknown
from cnnjax.modes import train_kwargs


def features(
    model: nn.Module, variables: Mapping[str, Any], x: jax.Array, names: Sequence[str]
) -> dict[str, jax.Array]:
    """Return intermediate values of a linen module in evaluation mode, by name.

    A name is what the model sows (every net here sows its stages as `stage1`, `stage2`, ..., a net with auxiliary
    heads `aux_logits1`, ...) or the path of one of its modules, such as `stage2_block0/conv1`, for that module's
    output; of a module that is called several times, the last call's. Under `jax.jit` what is not asked for, or not
    needed for it, is not computed.

    Args:
      model: Any linen module, called as `model(x)` or `model(x, train=False)`.
      variables: Its variables, `{"params": ..., ...}`.
      x: Images, `[N, H, W, C]`.
      names: Which values.
    Returns:
      A value a name, in the order of the names.
    Raises:
      UsageError: If there is no such value; the nearest names are in the message.
    """
    wanted = set(names)

    def captured(module: nn.Module, method: str) -> bool:
        return method == "__call__" and "/".join(module.path) in wanted

    found = _intermediates(model, variables, x, captured)
    for name in names:
        if name not in found:
            everything = jax.eval_shape(lambda v, x: _intermediates(model, v, x, True), variables, x)
            raise unknown("feature", name, [known for known in everything if known])
    return {name: found[name] for name in names}


def _intermediates(model: nn.Module, variables: Mapping[str, Any], x: jax.Array, capture: Any) -> dict[str, jax.Array]:
    variables = {name: value for name, value in variables.items() if name != "intermediates"}
    _, state = model.apply(
        variables, x, **train_kwargs(model, train=False), mutable=["intermediates"], capture_intermediates=capture
    )
    return dict(_walk(state.get("intermediates") or {}, ""))


def _walk(tree: Mapping[str, Any], path: str) -> Iterator[tuple[str, jax.Array]]:
    for name, value in tree.items():
        if name == "__call__":
            yield path, value[-1]
            continue
        inner = f"{path}/{name}" if path else name
        if isinstance(value, Mapping):
            yield from _walk(value, inner)
        else:
            yield inner, value[-1] if isinstance(value, tuple) else value
