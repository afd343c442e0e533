#!/usr/bin/env bash
# Everything that needs a GPU, in one run: the tests marked so, then the benchmark. Figures go to $OUT.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-runs}
mkdir -p "$out"
python -m pytest -p no:cacheprovider -m gpu tests 2>&1 | tee "$out/gpu-tests.log"
python -m clipfast bench --device cuda --out "$out/gpu.json" --plot "$out/gpu.png" 2>&1 | tee "$out/gpu-bench.log"
