"""The names that each family's tensors have elsewhere: one file a family and publisher, found by the model's module."""

import importlib
import importlib.util
from typing import Any

from cnnjax.pretrained.naming import CNNJAX, Naming, Rule

_OPTIMIZER = "the optimizer's and the run's state, no part of the net"
# cnnjax's own names are the paths themselves; a file of `params` alone and one of a whole training state do too.
OWN = Naming(
    "cnnjax",
    CNNJAX,
    (
        Rule("params/{rest*}", "params/{rest*}"),
        Rule("batch_stats/{rest*}", "batch_stats/{rest*}"),
        Rule("opt_state/{rest*}", None, reason=_OPTIMIZER),
        Rule("ema/{rest*}", None, reason=_OPTIMIZER),
        Rule("callbacks/{rest*}", None, reason=_OPTIMIZER),
        Rule("step", None, reason=_OPTIMIZER),
        Rule("key", None, reason=_OPTIMIZER),
    ),
    formats=("safetensors", "msgpack", "orbax"),
)
OWN_PARAMS = Naming(
    "cnnjax (params alone)",
    CNNJAX,
    (Rule("{rest*}", "params/{rest*}"),),
    formats=("safetensors", "msgpack", "orbax"),
)


def namings_for(model: Any) -> tuple[Naming, ...]:
    """Return the namings that files for a model may have, cnnjax's own first.

    The family's are every `Naming` in this package's modules `FAMILY` and `keras_FAMILY`, where FAMILY is the module
    that defines the model's class or the one it was derived from.

    Args:
      model: A linen module.
    """
    found: list[Naming] = [OWN, OWN_PARAMS]
    for cls in type(model).__mro__:
        room, _, family = cls.__module__.rpartition(".")
        if room == "cnnjax.models":
            for name in (family, f"keras_{family}"):
                module = f"{__name__}.{name}"
                if importlib.util.find_spec(module) is not None:
                    found += [v for v in vars(importlib.import_module(module)).values() if isinstance(v, Naming)]
    return tuple(found)
