import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_evaluation.py"


def test_a_few_random_meanings():
    """The script judges every outcome against a plain Dice; a thousand trials are run with it by hand."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "60", "--seed", "99"], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"scored"' in done.stdout and '"refused"' in done.stdout
