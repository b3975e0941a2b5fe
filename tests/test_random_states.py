"""States of the global generators are kept, restored and seeded together."""

import random

import numpy as np
import torch

from nnunet_ext.random_states import kept_random_states, random_states, restore_random_states, seed_loaders


def draw():
    return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002


def test_a_restored_state_draws_the_same_from_each_generator():
    states = random_states()
    first, others = draw(), draw()
    restore_random_states(states)
    assert draw() == first
    assert not any(a == b for a, b in zip(first, others, strict=True))


def test_what_is_drawn_within_leaves_no_trace_even_after_an_error():
    states = random_states()
    expected = draw()
    restore_random_states(states)
    try:
        with kept_random_states():
            seed_loaders(3)
            draw()
            raise ValueError
    except ValueError:
        pass
    assert draw() == expected


def test_a_seed_decides_what_every_generator_draws():
    with kept_random_states():
        seed_loaders(3)
        first = draw()
        seed_loaders(3)
        assert draw() == first
        seed_loaders(4)
        assert not any(a == b for a, b in zip(first, draw(), strict=True))
