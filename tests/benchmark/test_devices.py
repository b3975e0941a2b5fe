import multiprocessing
import time
from itertools import pairwise
from pathlib import Path

import pytest

from nnunet_ext.benchmark.devices import one_of, parse_gpus
from nnunet_ext.core.errors import UserError


def _use(folder: Path, number: int) -> None:
    with one_of(("0", "1"), folder) as gpu:
        started = time.monotonic()
        time.sleep(0.15)
        (folder / f"job_{number}").write_text(f"{gpu} {started} {time.monotonic()}")


def test_no_gpu_has_two_jobs(tmp_path):
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=_use, args=(tmp_path, number)) for number in range(5)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(20)
    spans = [file.read_text().split() for file in tmp_path.glob("job_*")]
    assert len(spans) == 5 and {gpu for gpu, *_ in spans} == {"0", "1"}
    for gpu in ("0", "1"):
        own = sorted((float(start), float(end)) for name, start, end in spans if name == gpu)
        assert all(before[1] <= after[0] for before, after in pairwise(own))


def test_choice():
    assert parse_gpus("1,0", ("0", "1")) == ("1", "0")
    assert parse_gpus("none", ("0",)) == ()
    with pytest.raises(UserError, match="--gpus 3: this machine has 0, 1"):
        parse_gpus("0,3", ("0", "1"))
    with pytest.raises(UserError, match="has no GPU"):
        parse_gpus("0", ())
    with pytest.raises(UserError, match="twice"):
        parse_gpus("0,0", ("0",))
