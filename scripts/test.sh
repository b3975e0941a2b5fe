#!/usr/bin/env bash
# Lint, types, documentation and tests: scripts/test.sh [options of pytest]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment dev
cd "$project"
"$environment/bin/ruff" check .
"$environment/bin/ruff" format --check .
"$environment/bin/mypy"
site="$(mktemp -d)"
trap 'rm -rf "$site"' EXIT
# The variables silence advertisements of other tools.
NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true "$environment/bin/mkdocs" build --quiet --strict --site-dir "$site"
# Two processes of one thread each: the networks of the tests are too small to share among threads.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$environment/bin/python" -m pytest -n 2 --dist=loadfile "$@"
