#!/usr/bin/env bash
# The set of benchmarks for one GPU:
#
#   pip install -e '.[cuda,parity]' && benchmarks/gpu.sh [FILE]
#
# Training and inference of ResNet-50 in bfloat16, one and many steps a call, each
# beside PyTorch (channels_last and torch.compile, both under autocast) in one process.
# Every line is appended to FILE, benchmarks/results/gpu.jsonl unless given, with
# hardware and versions; the table and the plot of all of them come last.
# Variables: MODEL, IMAGE_SIZE, BATCHES, STEPS ("1 10"), PRECISION, DEVICES, REPEATS,
# CALLS, TORCH, PYTHON. On CPU, to try it:
#   DEVICES=cpu MODEL=resnet18 IMAGE_SIZE=32 BATCHES=4 STEPS=1 REPEATS=2 CALLS=1 \
#       TORCH=eager EXTRA="--width=8 --stem=small" benchmarks/gpu.sh /tmp/cpu.jsonl
# Without torch, TORCH="" measures our side alone.
set -euo pipefail
cd "$(dirname "$0")/.."

file=${1:-benchmarks/results/gpu.jsonl}
python=${PYTHON:-python}
batches=${BATCHES:-256 512}
steps=${STEPS:-1 10}
torch=${TORCH-channels_last,compile}
read -r -a extra <<<"${EXTRA:-}"
common=(
    "--model=${MODEL:-resnet50}" "--image_size=${IMAGE_SIZE:-224}"
    "--precision=${PRECISION:-bfloat16}" "--devices=${DEVICES:-gpu}" --num_devices=1
    "--output=$file" "${extra[@]}"
)
# Both frameworks share the memory of the GPU.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
failed=0

# Runs a benchmark; one that fails (out of memory, say) does not end the set.
measure() {
    echo "--- $*" >&2
    "$python" -m "$@" "${common[@]}" || failed=$((failed + 1))
}

if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv >&2
fi
for batch in $batches; do
    for phase in train infer; do
        for count in $steps; do
            # Inference has no state to carry from step to step.
            [ "$phase" = train ] || [ "$count" = 1 ] || continue
            flags=("--phase=$phase" "--batch_size=$batch" "--steps_per_call=$count")
            # Ten calls are on their way at once, as in training, where nobody waits.
            every=$((count > 1 ? 1 : ${AWAIT_EVERY:-10}))
            measure benchmarks.throughput "${flags[@]}" "--await_every=$every" \
                "--repeats=${REPEATS:-20}"
            [ -n "$torch" ] || continue
            measure benchmarks.compare_torch "${flags[@]}" "--await_every=$every" \
                "--repeats=${REPEATS:-7}" "--calls=${CALLS:-3}" "--torch=$torch"
        done
    done
done
"$python" -m benchmarks.report "--results=$file" "--plot=${file%.jsonl}.png" \
    "--table=${file%.jsonl}.md"
[ "$failed" = 0 ] || { echo "$failed of the set failed" >&2; exit 1; }
