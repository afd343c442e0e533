#!/usr/bin/env bash
# The accuracy that the README may quote: a `full` evaluation of the bundled model, on a GPU.
# Call it again where LIMIT seconds were too few: it goes on from the parts that lie in $OUT.
# Options of `clipfast eval` may follow, and overrule those below.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-runs}/full
status=0
timeout --signal INT "${LIMIT:-540}" python -m clipfast eval --budget full --eps 1/255,2/255 \
    --defences none,blur,ttc,ttc-clean,twin,ttc-twin --chunk 250 --device auto --out "$out" "$@" || status=$?
echo "$(find "$out/parts" -name '*.npz' | wc -l) parts in $out, exit code $status" >&2
exit "$status"
