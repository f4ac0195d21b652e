#!/usr/bin/env bash
# Every check and benchmark that needs a GPU, as one command of less than ten minutes: bash benchmarks/gpu.sh
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=.
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}

part() { # title, limit in seconds, command
    echo
    echo "## $1"
    timeout "$2" "${@:3}" || echo "(ended with $?)"
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
part "Step of the paper's setting, float32" 150 "$python" benchmarks/training.py --dtype=float32
part "The same, bfloat16" 120 "$python" benchmarks/training.py --dtype=bfloat16
part "Losses" 90 "$python" benchmarks/losses.py
part "Loss of 65,536 pairs" 60 "$python" benchmarks/losses.py --large
part "Where a step's time goes" 60 "$python" benchmarks/hotspots.py
part "Evaluation" 60 "$python" benchmarks/evaluation.py
part "Devices" 60 "$python" benchmarks/scaling.py
