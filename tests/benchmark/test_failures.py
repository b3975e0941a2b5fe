import pytest

from nnunet_ext.benchmark.failures import NOT_A_NUMBER, STOPPED, classify, is_hopeless, is_of_device_memory

TRACE = "Traceback (most recent call last):\n  File 'x.py', line 1, in y\n"


@pytest.mark.parametrize(
    ("exit_code", "log", "kind", "message"),
    [
        (1, TRACE + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "out of memory", "Tried to"),
        (
            1,
            TRACE + "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory",
            "out of memory",
            "can't",
        ),
        (
            1,
            TRACE + "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 9.0 GiB",
            "out of memory",
            "9.0 GiB",
        ),
        (-9, "Epoch 3\n", "out of memory", "signal 9"),
        (1, "slurmstepd: error: Detected 1 oom-kill event(s)", "out of memory", "oom-kill"),
        (1, "slurmstepd: error: *** JOB 7 CANCELLED DUE TO TIME LIMIT ***", "time limit", "TIME LIMIT"),
        (1, "slurmstepd: error: *** JOB 7 CANCELLED DUE TO NODE FAILURE ***", "lost node", "NODE FAILURE"),
        (1, "error: labels are missing", "data", "labels are missing"),
        (1, TRACE + "FileNotFoundError: [Errno 2] No such file: 'a.b2nd'", "data", "a.b2nd"),
        (NOT_A_NUMBER, "NaN: the training loss of epoch 3 is nan", "NaN", "epoch 3"),
        (STOPPED, "Epoch 3", "stopped", "saved"),
        (-15, "Epoch 3", "other", "SIGTERM"),
        (
            1,
            TRACE + "ValueError: bad shape\nRuntimeError: One or more background workers are no longer alive.",
            "other",
            "bad shape",
        ),
        (3, "", "other", "exit code 3"),
    ],
)
def test_kinds(exit_code, log, kind, message):
    failure = classify(exit_code, log)
    assert failure.kind == kind and message in failure.message


def test_no_failure():
    assert classify(0, "CUDA out of memory, then another try went well") is None


def test_time_limit_is_a_late_stop():
    asked = {"asked_to_stop": True, "limit_seconds": 100.0}
    assert classify(STOPPED, "", wall_seconds=97, **asked).kind == "time limit"
    assert classify(STOPPED, "", wall_seconds=50, **asked).kind == "stopped"
    assert classify(-15, "", asked_to_stop=True, wall_seconds=97).kind == "stopped"


def test_what_another_attempt_does_not_mend():
    device, memory = classify(1, "CUDA out of memory."), classify(-9, "")
    assert is_of_device_memory(device) and not is_of_device_memory(memory)
    assert is_hopeless(device) and not is_hopeless(memory)
    assert is_hopeless(classify(NOT_A_NUMBER, "")) and not is_hopeless(classify(1, "RuntimeError: odd"))
