#!/usr/bin/env bash
# The main job from end to end: scripts/demo.sh [PATH/Task04_Hippocampus] [options of nnunet-ext demo]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment ""
exec "$environment/bin/nnunet-ext" demo "$@"
