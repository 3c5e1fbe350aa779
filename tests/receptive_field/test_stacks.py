"""What courses ask of stacks of convolutions."""

import pytest

from cnnjax.receptive_field import compare_stacks


@pytest.mark.parametrize(("layers", "kernel", "single"), [(2, 3, 5), (3, 3, 7), (2, 5, 9)])
def test_a_stack_sees_as_much_and_costs_less(layers, kernel, single):
    both = compare_stacks(layers, kernel, features=16, image_size=8)
    assert both.equal
    assert both.stack.size == both.single.size == both.single.kernel_size == single
    assert (both.stack.params, both.single.params) == (layers * kernel**2 * 16**2, single**2 * 16**2)
    assert both.stack.macs == 64 * both.stack.params
    assert both.single.macs == 64 * both.single.params


def test_another_kernel_is_another_field():
    both = compare_stacks(2, 3, single=7, features=4, image_size=8)
    assert not both.equal
    assert "another field" in str(both)
    with pytest.raises(ValueError, match="expected layers of at least 1, got 0"):
        compare_stacks(0)
