#!/usr/bin/env bash
# Everything that needs a GPU, in stages, the most important first: OUT=FOLDER bash benchmarks/gpu.sh [STAGE...]
#
# Fits the 15 minutes for which a GPU may be lent: BUDGET seconds (720 by default) for all stages together, and a
# limit for each. A stage that fails or runs out of time stops no other. OUT gets a log of each, its figures as
# JSON or text, and stages.jsonl: what each came to. WHEELS: a folder of packages to install first, of a machine
# without an index; DATA: CIFAR-10's folder, for the evaluation of photographs.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-runs/gpu}
device=${DEVICE:-cuda} # cpu tries the script itself
deadline=$((SECONDS + ${BUDGET:-720}))
mkdir -p "$out"
: >"$out/stages.jsonl"

# MOST COMMAND...: runs a command for so many seconds at most.
within() {
    local most=$1 left=$((deadline - SECONDS))
    shift
    timeout "$((left < most ? (left > 1 ? left : 1) : most))" "$@"
}

install() {
    if [ -n "${WHEELS:-}" ]; then
        within 120 python -m pip install --quiet --no-deps "$WHEELS"/*.whl || return
    fi
    within 180 python -m pip install --quiet --no-deps --no-build-isolation -e . || return
    python -m clipfast --version
    python - >"$out/machine.json" <<'PYTHON'
import json
import platform

import torch

gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
try:
    from triton import __version__ as triton
except ImportError:
    triton = None
print(json.dumps({"gpu": gpu, "torch": torch.__version__, "triton": triton, "python": platform.python_version()}))
PYTHON
}

# Every Triton kernel compiled, warm-up without a later capture, launches that a step makes.
correctness() {
    within 180 python -m pytest -q -p no:cacheprovider -p no:xdist -m gpu tests || return
    within 120 python -m pytest -q -p no:cacheprovider tests/ops
}

bars() { within 300 python -m clipfast bench --device "$device" --out "$out/bench.json" --plot "$out/bench.png"; }

launches() { within 60 python benchmarks/launches.py; }

rates() { within 90 python -m pytest -s -q -p no:cacheprovider benchmarks/test_operators.py; }

memory() {
    command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not installed"; return 0; }
    within 120 compute-sanitizer --error-exitcode 1 python -m pytest -q -p no:cacheprovider \
        tests/ops/test_operators.py -k "triton and not large"
}

drawn() { within 240 python -m clipfast eval --budget full --images 200 --device "$device" --out "$out/drawn"; }

photographs() {
    [ -n "${DATA:-}" ] || { echo "no DATA was given"; return 0; }
    within 240 python -m clipfast eval --budget full --images 200 --device "$device" --out "$out/photographs" \
        --data cifar10 --root "$DATA" --model photographs
}

for stage in ${*:-install correctness bars launches rates drawn photographs memory}; do
    began=$SECONDS
    if ((deadline - SECONDS < 10)); then
        printf '{"stage": "%s", "exit": null, "seconds": 0}\n' "$stage" | tee -a "$out/stages.jsonl"
        continue
    fi
    "$stage" >"$out/$stage.log" 2>&1
    printf '{"stage": "%s", "exit": %d, "seconds": %d}\n' "$stage" $? $((SECONDS - began)) |
        tee -a "$out/stages.jsonl"
    tail -n 3 "$out/$stage.log"
done
