"""What numbers of a function do to its field: those that it fixes itself, and those that are parameters."""

import numpy as np
from flax import linen as nn

from cnnjax.receptive_field import measure, receptive_field, trace

SHAPE = (1, 12, 9, 2)


class ReZero(nn.Module):
    """Add a branch times one number that starts as zero (Bachlechner et al., 2020)."""

    @nn.compact
    def __call__(self, x):
        return x + self.param("alpha", nn.initializers.zeros, ()) * nn.Conv(2, (3, 3))(x)


def test_a_parameter_that_is_one_number():
    field = receptive_field(ReZero(), SHAPE)
    assert (field.size, field.stride, field.padding, field.exact) == ((3, 3), (1, 1), (1, 1), True)
    assert [layer.field.size for layer in trace(ReZero(), SHAPE)] == [(3, 3)]
    heat = measure(ReZero(), SHAPE, samples=1, unit=(5, 4))
    assert np.argwhere(heat).tolist() == [[5, 4]]  # fresh, the branch counts for nothing
