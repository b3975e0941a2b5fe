"""When a term or a learning rate changes, as fractions of a run."""

import pytest
import torch

from nnunet_ext.training.schedules import HalvingLR, RestartingPolyLR, first_epoch, ramp, step


def test_schedules_are_the_papers_over_20_epochs_and_scale_with_the_run():
    assert [ramp(e, 20, 0.25) for e in range(7)] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1])
    assert [step(e, 20, 0.6) for e in (0, 11, 12, 19)] == [0, 0, 1, 1]
    assert ramp(125, 1000, 0.25) == pytest.approx(0.5)
    assert [step(e, 1000, 0.6) for e in (599, 600)] == [0, 1]
    assert ramp(0, 20, 0.0) == 1
    assert first_epoch(100, 0.55) == 55  # 0.55 * 100 is larger than 55


def test_a_restarting_schedule_counts_where_no_epoch_is_given():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = RestartingPolyLR(optimizer, 1.0, 10, 6)  # its constructor makes the first step
    for _ in range(6):
        scheduler.step()
    assert scheduler.get_last_lr() == [1.0]


def test_a_halving_rate_is_halved_at_equal_distances_and_begins_anew():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = HalvingLR(optimizer, 8.0, 20, 4, 2, 10)
    rates = []
    for epoch in range(14):
        scheduler.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [8, 8, 8, 8, 4, 4, 2, 2, 1, 1, 8, 8, 4, 4]
    assert scheduler.get_last_lr() == [4]
