#!/usr/bin/env bash
# Lint, types and tests: scripts/test.sh [options of pytest]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment dev
cd "$project"
"$environment/bin/ruff" check .
"$environment/bin/ruff" format --check .
"$environment/bin/mypy"
# Two processes of one thread each: the networks of the tests are too small to share among threads.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$environment/bin/python" -m pytest -n 2 --dist=loadfile "$@"
