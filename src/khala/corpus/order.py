"""Which examples a step sees: a pure function of (seed, step), so a resumed run repeats nothing.

Every draw is an integer hash of its address (the finaliser of splitmix64), never a generator with
a state that a checkpoint could forget.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from khala.errors import ConfigError

__all__ = ["BatchPlan", "draw", "indexes", "permutation", "uniform"]

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
Ints = NDArray[np.int64]


def draw(seed: int, *address: int) -> int:
    """Return 64 well-mixed bits that depend on the seed and on every part of the address."""
    value = _mix(seed & MASK)
    for part in address:
        value = _mix(value ^ ((part + 1) * GOLDEN & MASK))
    return value


def uniform(seed: int, *address: int) -> float:
    """Return a number in [0, 1) that depends only on its address."""
    return (draw(seed, *address) >> 11) / float(1 << 53)


def permutation(seed: int, epoch: int, num_examples: int) -> Ints:
    """Return the order in which an epoch visits the examples."""
    keys = np.arange(1, num_examples + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    keys ^= np.uint64(draw(seed, epoch))
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    keys ^= keys >> np.uint64(31)
    order: Ints = np.argsort(keys, kind="stable")
    return order


def indexes(seed: int, step: int, batch: int, num_examples: int) -> list[int]:
    """Return the ``batch`` examples of a step; every epoch visits each example once."""
    chosen = []
    orders: dict[int, Ints] = {}
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, num_examples)
        if epoch not in orders:
            orders[epoch] = permutation(seed, epoch, num_examples)
        chosen.append(int(orders[epoch][place]))
    return chosen


class BatchPlan:
    """Batches of examples, at most ``max_tokens`` each.

    Padded side by side, a batch costs its longest member times its size: examples of an epoch are
    shuffled, sorted by length inside pools and cut into batches. Packed one after another it costs
    their sum: each example of a pool, the longest first, joins the first batch that has room for
    it. Either way the batches are shuffled.
    """

    def __init__(
        self, lengths: Ints | list[int], *, max_tokens: int, seed: int, pool: int = 256,
        packed: bool = False,
    ) -> None:  # fmt: skip
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.max_tokens = max_tokens
        self.seed = seed
        self.pool = pool
        self.packed = packed
        if self.lengths.size == 0:
            raise ConfigError("no example to train on")
        if int(self.lengths.max()) > max_tokens:
            raise ConfigError(
                f"an example has {int(self.lengths.max())} tokens, a batch at most {max_tokens}: "
                "raise max_tokens or leave long songs out"
            )
        self._epochs: list[list[list[int]]] = []
        self._ends: list[int] = []

    def at(self, step: int) -> list[int]:
        """Return the example indexes of the batch of a step."""
        while not self._ends or step >= self._ends[-1]:
            batches = self._epoch(len(self._epochs))
            self._epochs.append(batches)
            self._ends.append((self._ends[-1] if self._ends else 0) + len(batches))
        epoch = int(np.searchsorted(np.asarray(self._ends), step, side="right"))
        start = self._ends[epoch - 1] if epoch else 0
        return self._epochs[epoch][step - start]

    def epoch_of(self, step: int) -> float:
        """Return how many epochs have been seen before a step."""
        self.at(step)
        epoch = int(np.searchsorted(np.asarray(self._ends), step, side="right"))
        start = self._ends[epoch - 1] if epoch else 0
        return epoch + (step - start) / len(self._epochs[epoch])

    def _epoch(self, epoch: int) -> list[list[int]]:
        """Cut one epoch into batches."""
        order = permutation(self.seed, epoch, self.lengths.size)
        batches: list[list[int]] = []
        for start in range(0, order.size, self.pool):
            members = order[start : start + self.pool]
            batches += self._packed(members) if self.packed else self._padded(members)
        shuffled = permutation(self.seed ^ GOLDEN, epoch, len(batches))
        return [batches[i] for i in shuffled.tolist()]

    def _padded(self, members: Ints) -> list[list[int]]:
        """Cut a pool into batches of similar lengths."""
        batches: list[list[int]] = []
        batch: list[int] = []
        for index in members[np.argsort(self.lengths[members], kind="stable")].tolist():
            # Sorted: this member is the longest so far.
            if batch and int(self.lengths[index]) * (len(batch) + 1) > self.max_tokens:
                batches.append(batch)
                batch = []
            batch.append(index)
        return [*batches, batch]

    def _packed(self, members: Ints) -> list[list[int]]:
        """Fill batches with a pool's members, the longest first."""
        batches: list[list[int]] = []
        room: list[int] = []
        for index in members[np.argsort(-self.lengths[members], kind="stable")].tolist():
            length = int(self.lengths[index])
            place = next((i for i, left in enumerate(room) if left >= length), len(room))
            if place == len(room):
                batches.append([])
                room.append(self.max_tokens)
            batches[place].append(index)
            room[place] -= length
        return batches


def _mix(value: int) -> int:
    """Scramble 64 bits (splitmix64)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)
