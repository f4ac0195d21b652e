#!/usr/bin/env bash
# Every check and benchmark that needs a GPU, as three commands: bash benchmarks/gpu.sh 1|2|3 [SECONDS]
#
#   1  420 s: training steps beside PyTorch; tests and checks on the GPU meanwhile; steps with their input
#   2  170 s: losses of large batches, evaluation of 60,502 images, where a step's time goes
#   3  300 s: 2,000 steps of the main job, with input, logging and saving; then a comparison, which resumes
#
# The most valuable figures come first. Each part has a time limit, and one that fails does not end the others. Tables
# go to standard output and OUT/tables.md, the rest to OUT/errors.txt. gpu_env.sh says what can be carried along.
# SMALL=1 takes small sizes, to rehearse on a CPU.
set -uo pipefail
cd "$(dirname "$0")/.."
SECONDS=0
call=${1:?1, 2 or 3}
limits=(0 420 170 300)
total=${2:-${limits[$call]}}
source benchmarks/gpu_env.sh
exec > >(tee "$out/tables.md")
tee=$!
small() { [ -n "${SMALL:-}" ]; }

limited() { # seconds, command: ends with the command, after so many seconds, or with the time of this call
    local left=$((total - 3 - SECONDS)) most=$1
    small && most=$total
    timeout --signal="${SIGNAL:-INT}" --kill-after=3 "$((most < left ? most : left > 0 ? left : 1))" "${@:2}"
}

part() { # title, seconds, command
    printf '\n## %s (%s s)\n\n' "$1" "$SECONDS"
    echo "## $1" >>"$out/errors.txt"
    limited "$2" "${@:3}" 2>"$out/part.txt"
    local code=$?
    [ $code = 0 ] || { echo "(ended with $code)" && tail -n 5 "$out/part.txt" | cut -c 1-300; }
    tr '\r' '\n' <"$out/part.txt" >>"$out/errors.txt"
    rm "$out/part.txt"
}

first() {
    local go="$keep/go" size=() only dtype pids=()
    local dtypes=(float32 bfloat16)
    small && size=(--pairs=2 --rounds=1) dtypes=(float32)
    rm -f "$go" "$out"/training_*.jsonl
    for dtype in "${dtypes[@]}"; do
        for only in ours torch; do
            SIGNAL=TERM limited $((total - 80)) "$python" benchmarks/training.py --only=$only --dtype=$dtype \
                --wait="$go" --out="$out/training_${only}_$dtype.jsonl" "${size[@]}" 2>>"$out/errors.txt" >/dev/null &
            pids+=($!)
        done
    done
    # One device: tests of several are left out. Warnings that only a GPU gives are no errors.
    local tests=(tests/losses tests/models tests/metrics tests/test_optim.py)
    small && tests=(tests/losses/test_mining.py)
    local workers=()
    "$python" -c 'import xdist' 2>/dev/null && ! small && workers=(-n 6)
    JAX_DEFAULT_MATMUL_PRECISION=highest SYMM_JAX_TEST_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu} \
        part "Tests at highest precision" 150 "$python" -m pytest "${tests[@]}" "${workers[@]}" -o addopts=-q --tb=line \
        -p no:cacheprovider -W default -k "not split_over and not of_all_devices"
    part "Checks" 90 "$python" benchmarks/gpu_checks.py
    touch "$go" # now the four are timed, one by one
    wait "${pids[@]}"
    for dtype in "${dtypes[@]}"; do
        part "Training step, $dtype" 30 "$python" benchmarks/training.py --combine "$out"/training_*_$dtype.jsonl
    done
    small && size=(--pairs=2 --rounds=1 --steps=1 --images=256)
    for dtype in "${dtypes[@]}"; do
        part "A step with its input, $dtype" 90 "$python" benchmarks/input_pipeline.py --dtype=$dtype "${size[@]}"
    done
}

second() {
    local pairs=(16384 65536) images=(60502 11316) size=()
    small && pairs=(256) images=(1000 200) size=(--pairs=2 --steps=1)
    part "Loss of large batches" 75 "$python" benchmarks/large_batch.py --pairs "${pairs[@]}"
    part "Evaluation" 50 "$python" benchmarks/evaluation.py --images "${images[@]}"
    part "Where a step's time goes, float32" 50 "$python" benchmarks/hotspots.py --dtype=float32 "${size[@]}"
    small || part "Where a step's time goes, bfloat16" 50 "$python" benchmarks/hotspots.py --dtype=bfloat16
    part "Pools, layer by layer" 50 "$python" benchmarks/layers.py "${size[@]:0:1}"
}

third() {
    local data=() job=(--config=configs/car_symm_npair.py --config.model.pretrained=) compare=cars_npair steps=2000 name
    if [ -e "$keep/cars/cars_annos.mat" ] && [ -d "$keep/cars/car_ims" ]; then
        data=(data.dir="$keep/cars" data.cache_dir="$keep/cache" data.accept_duplicates=True)
    else
        echo "No photographs were carried along: drawn characters in their place."
        job+=(--config.data.name=glyphs) compare=glyphs data=(data.dir= data.cache_dir="$keep/cache")
    fi
    small && steps=2 job+=(--config.batch_size=4 --config.data.image_size=64 --config.log_every=1)
    for name in bfloat16 float32; do
        part "$steps steps of the main job, $name, from random weights" $((total / 3)) "$python" launch.py "${job[@]}" \
            "${data[@]/#/--config.}" --config.num_steps=$steps --config.checkpoint_every=500 \
            --config.model.dtype=$name --mode=train --workdir="$keep/run/$name"
        tail -n 2 "$keep/run/$name/train/metrics.jsonl"
    done
    # One seed more each time: what is finished is not repeated, so that a time-out loses one run.
    local options=(validation_classes='(0,)')
    for name in npair symm_npair; do
        options+=("${data[@]/#/methods.$name.}")
        [ $compare = cars_npair ] && options+=(methods.$name.{data.image_size=224,num_steps=400,checkpoint_every=200})
        small && options+=(methods.$name.{num_steps=1,checkpoint_every=1,batch_size=4,clustering=False})
    done
    for name in '(1,2)' '(1,2,3)' '(1,2,3,4,5)'; do
        small && [ "$name" != '(1,2)' ] && break
        part "Comparison of $compare, seeds $name" "$total" "$python" launch.py --mode=compare \
            --config=configs/compare/$compare.py "${options[@]/#/--config.}" --config.seeds="$name" \
            --workdir="$keep/compare"
        [ -e "$keep/compare/comparison.json" ] && cp "$keep/compare/comparison.json" "$out/"
    done
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo "no GPU"
"$python" -c 'import jax; print("jax", jax.__version__, jax.devices())' 2>>"$out/errors.txt"
"$python" -c 'import torch; print("torch", torch.__version__, torch.cuda.is_available())' 2>/dev/null || echo "torch: not installed"
echo "the machine was ready after $SECONDS s"
case $call in 1) first ;; 2) second ;; 3) third ;; esac
printf '\nended after %s s\n' "$SECONDS"
exec >&-
wait "$tee"
