"""As many examples of each class in an epoch, however many there are."""

from collections.abc import Callable

import numpy as np

# Epochs, and with them keys, that no run comes to: of examples that come again, and of the order within classes.
_AGAIN, _MOST_AGAIN, _OF_MEMBERS = 1 << 16, 1 << 13, 1 << 30


class Balance:
    """Examples of all classes in turn, in place of those of an epoch's permutation.

    Those of a small class come several times in an epoch, and of a large one others in every epoch.

    Args:
      labels: Class numbers, `[N]`.
      permutation: Of the numbers below N, by a number.
    """

    def __init__(self, labels: np.ndarray, permutation: Callable[[int], np.ndarray]):
        _, self._labels, self._counts = np.unique(labels, return_inverse=True, return_counts=True)
        self._starts = np.cumsum(self._counts) - self._counts
        self._permutation = permutation
        self._by_epoch: dict[int, np.ndarray] = {}

    def __call__(self, index: np.ndarray, epochs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of the examples and the epochs that their augmentation is drawn for, int32, `[B]` each.

        Args:
          index: What the epochs' permutations have there, `[B]`.
          epochs: That each belongs to, `[B]`.
        """
        kind, turn = index % len(self._counts), index // len(self._counts)
        again, rank = np.divmod(turn, self._counts[kind])
        found = np.empty_like(index)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            found[now] = self._members(int(epoch))[self._starts[kind[now]] + rank[now]]
        # What comes again within an epoch is augmented in another way; by an even number, as every other epoch mirrors.
        return found, (epochs + again % _MOST_AGAIN * _AGAIN).astype(np.int32)

    def _members(self, epoch: int) -> np.ndarray:
        """Return the examples class by class, those of each in an order of the epoch's own."""
        if epoch not in self._by_epoch:
            self._by_epoch = {e: members for e, members in self._by_epoch.items() if e == epoch - 1}
            order = self._permutation(epoch + _OF_MEMBERS)
            self._by_epoch[epoch] = order[np.argsort(self._labels[order], kind="stable")]
        return self._by_epoch[epoch]
