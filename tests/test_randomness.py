"""Random numbers by an example's number: the published generator, its statistics, and that nothing else matters.

All of it is deterministic. The limits are five standard deviations of what ideal random numbers do: about one
ideal generator in two million falls outside one of them.
"""

from __future__ import annotations

import hashlib
import math

import pytest
import torch
from torch import Tensor

from advex.randomness import uniform_for

MANY = 200_000


def splitmix64(state: int, count: int) -> list[int]:
    """The first outputs of SplitMix64 from a state, as published (Steele, Lea and Flood 2014), in whole numbers."""
    outputs = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        outputs.append(finalised(state))
    return outputs


def finalised(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def chi_square(buckets: Tensor, count: int) -> float:
    """Pearson's statistic of buckets numbered from 0 against equal shares, in standard deviations from its mean."""
    seen = torch.bincount(buckets.flatten(), minlength=count).double()
    assert len(seen) == count
    expected = buckets.numel() / count
    statistic = ((seen - expected).square() / expected).sum().item()
    return (statistic - (count - 1)) / math.sqrt(2 * (count - 1))


def correlation(a: Tensor, b: Tensor) -> float:
    """Of two columns of equal length, in standard deviations of what independent ones show."""
    return torch.corrcoef(torch.stack([a, b]).double())[0, 1].item() * math.sqrt(len(a))


# -- the published generator -------------------------------------------------------------------------------


def test_the_replica_gives_the_published_numbers() -> None:
    """The numbers that are commonly given for SplitMix64 from the seed 1234567."""
    assert splitmix64(1234567, 5) == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
    ]  # fmt: skip


@pytest.mark.parametrize(("seed", "stream"), [(0, ""), (7, "augmentation|3"), (-1, "x"), (2**80, "é")])
def test_uniform_for_is_splitmix64_from_a_state_per_example(seed: int, stream: str) -> None:
    index = [0, 1, 2, 1_281_166, 2**62 + 5, -3]
    key = int.from_bytes(hashlib.blake2b(f"{seed}|{stream}|".encode(), digest_size=8).digest())
    expected = [[z >> 40 for z in splitmix64(finalised((i % 2**64) ^ key), 4)] for i in index]
    found = uniform_for(torch.tensor(index), seed, stream, columns=4)
    assert found.dtype == torch.float32
    assert (found.double() * 2**24).tolist() == expected


# -- statistics --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 10**6, 2**40])
def test_each_column_is_uniform(first: int) -> None:
    u = uniform_for(torch.arange(first, first + MANY), 0, "test", columns=4)
    assert u.min() >= 0
    assert u.max() < 1
    for column in u.double().unbind(dim=1):
        assert abs(column.mean().item() - 1 / 2) < 5 * math.sqrt(1 / 12 / MANY)
        assert abs(column.var().item() - 1 / 12) < 5 * math.sqrt(1 / 180 / MANY)
        # Coarse buckets use the first bits, the remainder by 2^-8 the last ones.
        for part in (column, column * 2**16 % 1):
            assert abs(chi_square((part * 256).long(), 256)) < 5


def pairs() -> list[tuple[str, Tensor, Tensor]]:
    """Numbers that should know nothing of each other, though they were asked for with nearly the same arguments."""
    index = torch.arange(MANY)
    u = uniform_for(index, 0, "augmentation|0", columns=4)
    found = [(f"columns {a} and {b}", u[:, a], u[:, b]) for a in range(4) for b in range(a)]
    found += [(f"columns {a} and {a + 1} of the next example", u[:-1, a], u[1:, a + 1]) for a in range(3)]
    for column in range(4):
        for lag in (1, 2, 3, 10, 128, 1000, 2**16):
            found.append((f"index + {lag}, column {column}", u[:-lag, column], u[lag:, column]))
    for name, other in {
        "seed 1": uniform_for(index, 1, "augmentation|0", columns=4),
        "epoch 1": uniform_for(index, 0, "augmentation|1", columns=4),
        "epoch 10": uniform_for(index, 0, "augmentation|10", columns=4),
        "index + 2^32": uniform_for(index + 2**32, 0, "augmentation|0", columns=4),
        "-1 - index": uniform_for(-1 - index, 0, "augmentation|0", columns=4),
    }.items():
        found += [(f"{name}, column {column}", u[:, column], other[:, column]) for column in range(4)]
    return found


def test_neighbours_know_nothing_of_each_other() -> None:
    """Neither linearly nor otherwise: their correlation, and 16 x 16 buckets of the pairs."""
    for name, a, b in pairs():
        assert abs(correlation(a, b)) < 5, name
        assert abs(chi_square((a * 16).long() * 16 + (b * 16).long(), 256)) < 5, name


def test_every_bit_of_the_index_moves_every_bit_of_the_result() -> None:
    """Each of 64 bits of the index flips each of the 24 result bits in half of 20,000 cases."""
    index, trials = torch.arange(20_000) * 977, 20_000
    places = 2 ** torch.arange(24)

    def bits(index: Tensor) -> Tensor:
        return (uniform_for(index, 3)[:, 0] * 2**24).long()[:, None] & places != 0

    before = bits(index)
    for place in range(64):
        flipped = index ^ (1 << place if place < 63 else -(2**63))
        share = (bits(flipped) != before).double().mean(dim=0)
        assert (share - 0.5).abs().max().item() < 5 * math.sqrt(1 / 4 / trials), place


def test_few_values_come_twice() -> None:
    """Among 200,000 draws of 2^24 values ideal ones repeat n^2 / 2^25 = 1192 times, give or take sqrt(1192)."""
    repeated = MANY - len(uniform_for(torch.arange(MANY), 5).unique())
    expected = MANY - 2**24 * -math.expm1(MANY * math.log1p(-(2.0**-24)))
    assert abs(repeated - expected) < 5 * math.sqrt(expected)


# -- what it depends on ------------------------------------------------------------------------------------


def test_only_seed_stream_and_number_matter() -> None:
    index = torch.randint(-(2**60), 2**60, (200,))
    whole = uniform_for(index, 1, "a", columns=3)
    order = torch.randperm(200)
    assert torch.equal(uniform_for(index[order], 1, "a", columns=3), whole[order])
    for size in (1, 7, 64):
        assert torch.equal(torch.cat([uniform_for(part, 1, "a", columns=3) for part in index.split(size)]), whole)
    assert torch.equal(uniform_for(index, 1, "a", columns=5)[:, :3], whole)
    assert torch.equal(uniform_for(index.repeat_interleave(3)[::3], 1, "a", columns=3), whole)  # strided
    assert torch.equal(uniform_for(torch.arange(9, dtype=torch.int32), 1), uniform_for(torch.arange(9), 1))
    assert not (uniform_for(index, 2, "a", columns=3) == whole).any(dim=1).any()
    assert not (uniform_for(index, 1, "b", columns=3) == whole).any(dim=1).any()


def test_the_global_generator_does_not_move() -> None:
    before = torch.get_rng_state()
    uniform_for(torch.arange(10), 0, columns=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("rows", "columns"), [(0, 1), (0, 4), (3, 0)])
def test_nothing_asked_nothing_given(rows: int, columns: int) -> None:
    assert uniform_for(torch.arange(rows), 0, columns=columns).shape == (rows, columns)
