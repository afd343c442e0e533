#!/usr/bin/env bash
# Everything that needs a GPU, in one run: the tests, then the benchmarks. Figures go to $OUT.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-runs}
mkdir -p "$out"
python -m pytest -p no:cacheprovider -m gpu tests 2>&1 | tee "$out/gpu-tests.log"
python -m pytest -p no:cacheprovider tests/ops 2>&1 | tee "$out/gpu-operators.log"
if command -v compute-sanitizer >/dev/null; then
    compute-sanitizer --error-exitcode 1 python -m pytest -p no:cacheprovider tests/ops/test_operators.py -k "triton and not large" \
        2>&1 | tee "$out/gpu-sanitizer.log"
fi
python benchmarks/launches.py 2>&1 | tee "$out/gpu-launches.txt"
python -m pytest -s -p no:cacheprovider benchmarks/test_operators.py 2>&1 | tee "$out/gpu-operators.txt"
python -m clipfast bench --device cuda --out "$out/gpu.json" --plot "$out/gpu.png" 2>&1 | tee "$out/gpu-bench.log"
