#!/usr/bin/env bash
# Install what this machine's Python lacks, without a network, and measure its GPU: README.md beside this file.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

python=$(command -v "${PYTHON:-python3}") || { echo "There is no ${PYTHON:-python3} here: PYTHON=/path/to/python ./run.sh" >&2; exit 1; }
[[ $python == /* ]] || python=$PWD/$python
out=${OUT:-$here}
mkdir -p "$out"
out=$(cd "$out" && pwd)

"$python" "$here/install.py"
export PYTHONPATH=$here/code:$here/site${PYTHONPATH:+:$PYTHONPATH}
cd "$here/code"
exec "$python" -m benchmarks.gpu --json "$out/gpu.json" "$@"
