#!/usr/bin/env bash
# Every check and benchmark that needs a GPU, as three commands: bash benchmarks/gpu.sh 1|2|3 [SECONDS]
#
#   1  420 s: training steps beside PyTorch; tests and checks on the GPU meanwhile; steps with their input
#   2  170 s: losses of large batches, evaluation of 60,502 images, where a step's time goes
#   3  300 s: 2,000 steps of the main job, with input, logging and saving; then a comparison, which resumes
#
# The most valuable figures come first. Each part has a time limit. One that fails does not end the others, and one for
# which no time is left is skipped. Tables go to standard output and OUT/tables.md, the rest to OUT/errors.txt.
# gpu_env.sh says what can be carried along. Exit status: 0; 1 if a part failed or JAX finds no GPU; 2 for wrong
# arguments.
#
#   SMALL=1 JAX_PLATFORMS=cpu bash benchmarks/gpu.sh 1 600   # a rehearsal on a CPU, with small sizes
set -uo pipefail
if ! [[ $# -le 2 && ${1:-} =~ ^[123]$ && ${2:-1} =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: bash benchmarks/gpu.sh 1|2|3 [SECONDS]" >&2
    exit 2
fi
cd "$(dirname "$0")/.."
SECONDS=0
call=$1
limits=(0 420 170 300)
total=${2:-${limits[$call]}}
source benchmarks/gpu_env.sh
find_gpu='import jax; assert jax.default_backend() == "gpu", jax.devices(); print("jax", jax.__version__, jax.devices())'
if [ "${JAX_PLATFORMS:-}" != cpu ] && ! found=$("$python" -c "$find_gpu" 2>"$out/errors.txt"); then
    tail -n 1 "$out/errors.txt" >&2
    echo "error: JAX finds no GPU. Install JAX with CUDA, or set JAX_PLATFORMS=cpu and SMALL=1 for a rehearsal." >&2
    exit 1
fi
exec > >(tee "$out/tables.md")
tee=$!
failed=0 # parts
small() { [ -n "${SMALL:-}" ]; }

left() { # the seconds for commands that this call still has
    echo $((total - 3 - SECONDS))
}

limited() { # seconds, command: ends with the command, after so many seconds, or with the time of this call
    local left most=$1
    left=$(left)
    small && most=$total
    timeout --signal="${SIGNAL:-INT}" --kill-after=3 "$((most < left ? most : left > 0 ? left : 1))" "${@:2}"
}

part() { # title, seconds, command
    printf '\n## %s (%s s)\n\n' "$1" "$SECONDS"
    if (($(left) < 10)); then # Python and JAX take as long to start
        echo "(skipped: no time is left)"
        return
    fi
    echo "## $1" >>"$out/errors.txt"
    limited "$2" "${@:3}" 2>"$out/part.txt"
    local code=$?
    [ $code = 0 ] || { failed=$((failed + 1)) && echo "(ended with $code)" && tail -n 5 "$out/part.txt" | cut -c 1-300; }
    tr '\r' '\n' <"$out/part.txt" >>"$out/errors.txt"
    rm "$out/part.txt"
}

first() {
    local go="$keep/go" size=() only dtype pids=() pid
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
    for pid in "${pids[@]}"; do
        wait "$pid" || { failed=$((failed + 1)) && echo "(a training program ended with an error)"; }
    done
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
    local data=() job=(--config=configs/car_symm_npair.py --config.model.pretrained=) compare=cars_npair steps=2000 name needed
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
        [ -e "$keep/run/$name/train/metrics.jsonl" ] && tail -n 2 "$keep/run/$name/train/metrics.jsonl"
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
        [ "$name" = '(1,2)' ] && needed=$failed
    done
    failed=$needed # the seeds after the second are as many as the time allows
}

echo "${found:-a rehearsal on a CPU}"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
"$python" -c 'import torch; print("torch", torch.__version__, torch.cuda.is_available())' 2>/dev/null || echo "torch: not installed"
echo "the machine was ready after $SECONDS s"
case $call in 1) first ;; 2) second ;; 3) third ;; esac
printf '\nended after %s s, parts that failed: %s\n' "$SECONDS" "$failed"
exec >&-
wait "$tee"
exit $((failed > 0))
