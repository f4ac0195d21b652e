# Sourced by gpu.sh, in the repository's root: the Python to use, what a bare machine lacks, and folders that outlast a
# command. Sets python, keep and out.
#
# .whl/*.whl     wheels to install, where they were carried along: Python packages that the machine lacks
# .gpu/*.tar     photographs of Cars196, in one tar or several; .gpu/cars_annos.mat
# KEEP           the folder that outlasts a command, by default /tmp/symm_jax_gpu: packages, photographs, caches, runs
# OUT            the folder for tables and errors, by default KEEP/out

python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
keep=${KEEP:-/tmp/symm_jax_gpu}
out=${OUT:-$keep/out}
mkdir -p "$keep/cars" "$out"

if compgen -G '.whl/*.whl' >/dev/null && [ ! -e "$keep/site.done" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$keep/site" \
        .whl/*.whl && touch "$keep/site.done"
fi
[ -d "$keep/site" ] && export PYTHONPATH="$keep/site${PYTHONPATH:+:$PYTHONPATH}"

for tar in .gpu/*.tar; do
    done=$keep/$(basename "$tar").done
    [ -e "$tar" ] && [ ! -e "$done" ] && tar -xf "$tar" -C "$keep/cars" && touch "$done"
done
[ -e .gpu/cars_annos.mat ] && cp .gpu/cars_annos.mat "$keep/cars/"

export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false # several processes share the GPU
export JAX_COMPILATION_CACHE_DIR=$keep/compiled JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
export TORCHINDUCTOR_CACHE_DIR=$keep/inductor TRITON_CACHE_DIR=$keep/triton

# A step compiles in a minute without this autotuning. XLA ends a process at a flag that it does not know.
flags="${XLA_FLAGS:-} --xla_gpu_experimental_enable_fusion_autotuner=false"
if [ ! -e "$keep/flags" ]; then
    tiny='import jax; print(jax.__version__, jax.jit(lambda x: x + 1)(1.0).devices())'
    XLA_FLAGS=$flags "$python" -c "$tiny" >/dev/null 2>&1 && echo "$flags" >"$keep/flags" || echo "${XLA_FLAGS:-}" >"$keep/flags"
fi
XLA_FLAGS=$(cat "$keep/flags")
export XLA_FLAGS
