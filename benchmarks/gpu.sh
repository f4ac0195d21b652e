#!/usr/bin/env bash
# Every check and benchmark that needs a GPU, as one command of less than ten minutes: bash benchmarks/gpu.sh [SECONDS]
# Parts that end early leave their time to those after them; all of them together end within SECONDS (590).
set -uo pipefail
cd "$(dirname "$0")/.."
total=${1:-590}
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false # PyTorch needs memory beside JAX
JAX_COMPILATION_CACHE_DIR=$(mktemp -d)     # several parts compile the same step
export JAX_COMPILATION_CACHE_DIR
trap 'rm -rf "$JAX_COMPILATION_CACHE_DIR"' EXIT
SECONDS=0 end=0

part() { # title, its share of the time in thousandths, command
    end=$((end + $2 * total / 1000))
    echo
    echo "## $1"
    timeout --kill-after=5 "$((end > SECONDS ? end - SECONDS : 1))" "$python" "${@:3}" || echo "(ended with $?)"
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || echo "no GPU"
"$python" -c 'import torch; print("torch", torch.__version__, torch.cuda.is_available())' || echo "no PyTorch"
part "Loss of large batches" 110 benchmarks/large_batch.py
part "Evaluation" 110 benchmarks/evaluation.py
part "Step of the paper's setting, float32" 210 benchmarks/training.py --dtype=float32
part "The same, bfloat16" 150 benchmarks/training.py --dtype=bfloat16
part "With its input, bfloat16" 100 benchmarks/input_pipeline.py --dtype=bfloat16
part "With its input, float32" 80 benchmarks/input_pipeline.py --dtype=float32
part "Where a step's time goes" 60 benchmarks/hotspots.py
part "Losses" 70 benchmarks/losses.py
part "What synthesis adds to a step" 60 benchmarks/synthesis_cost.py cars_npair --steps=20
part "Devices" 50 benchmarks/scaling.py
