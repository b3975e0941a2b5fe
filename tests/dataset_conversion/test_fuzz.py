import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_conversion.py"


@pytest.mark.parametrize(("what", "count"), [("bytes", 20), ("meaning", 15)])
def test_a_few_random_changes(what, count):
    """The script judges every outcome; hundreds of trials are run with it by hand."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(count), "--seed", "99", "--what", what],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
