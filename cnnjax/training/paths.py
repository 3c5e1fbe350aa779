"""Parameters by their paths, such as `stem/conv/kernel`, and the regular expressions that pick some."""

import re
from typing import Any

import jax

from cnnjax.errors import UsageError


def path_text(keys: Any) -> str:
    """Return a path of JAX's tree functions as text.

    Args:
      keys: The path's keys.
    """
    return "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in keys)


def parameter_paths(params: Any) -> list[str]:
    """Return the paths of all leaves.

    Args:
      params: Parameters, or their shapes.
    """
    return [path_text(keys) for keys, _ in jax.tree_util.tree_flatten_with_path(params)[0]]


def compile_pattern(what: str, pattern: str) -> re.Pattern[str]:
    """Return the regular expression.

    Args:
      what: What it is for, for the message.
      pattern: Its text.
    Raises:
      UsageError: If it is none.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{what}: expected a regular expression, got {pattern!r}: {error}.") from None
