import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_conversion.py"


def test_a_few_random_damages():
    """The script judges every outcome; hundreds of trials are run with it by hand."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "40", "--seed", "99"], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
