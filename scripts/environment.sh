# Sourced by the other scripts: makes .venv beside this folder, with the project in it, unless it is there already.
# PYTHON chooses the interpreter (3.10 or newer).

project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
environment="$project/.venv"

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10 python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.10 or newer was not found: install it, or name it with PYTHON=/path/to/python." >&2
    return 1
}

# make_environment EXTRA: the mark is written last, so that an interrupted installation is done again;
# it holds the dependencies, so that a changed pyproject.toml is installed again.
make_environment() {
    local mark="$environment/.installed${1:+-$1}"
    if [ -f "$mark" ] && cmp -s "$mark" "$project/pyproject.toml"; then
        return
    fi
    local python
    python="$(find_python)"
    echo "Installing into $environment (PyTorch with CUDA: about 6 GB, some minutes) ..."
    "$environment/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$environment"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check -e "$project${1:+[$1]}"
    cp "$project/pyproject.toml" "$mark"
}
