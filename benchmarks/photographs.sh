#!/usr/bin/env bash
# Every figure of the bundled model of photographs: bash benchmarks/photographs.sh ROOT OUT [STEP...]
# ROOT: folder of CIFAR-10, as `clipfast eval --root` takes it. Steps, all of them by default, in hours of two cores:
# transfer (1000 pictures under PGD-10, 0.3), full (200 under the budget full, 2.5), rest (the other systems on the
# first 60 of those, 1). What was done before is kept, part by part.
set -euo pipefail
root=$(realpath "$1") out=$(realpath -m "$2")
cd "$(dirname "$0")/.."
shift 2
export OMP_NUM_THREADS=1 # a shard for each of two cores
attackers=pgd-10,bpda,unrolled,gate,gate-passed,gate-countered,both-branches,targeted,apgd-eot,black-box,retries
common=(--data cifar10 --root "$root" --model photographs)

# NAME OPTION...: the evaluation in two shards, then its report in OUT/NAME.
evaluate() {
    local name=$1
    shift
    for i in 1 2; do
        python -m clipfast eval "${common[@]}" "$@" --shard "$i/2" --out "$out/$name-$i" &
    done
    wait -n
    wait -n
    python -m clipfast eval "${common[@]}" "$@" --from "$out/$name-1" --from "$out/$name-2" --out "$out/$name"
}

transfer() {
    evaluate transfer --images 1000 --chunk 50 --attacks pgd-10 --eps 1/255,2/255,4/255 \
        --defences none,rn,blur,ttc,ttc-clean,twin,ttc-twin,recommended,recommended-twin
}
full() {
    evaluate full --budget full --images 200 --chunk 25 --attacks "$attackers" --eps 2/255 \
        --defences none,blur,twin,recommended,recommended-twin
}
rest() {
    evaluate rest --budget full --images 60 --chunk 20 --attacks "$attackers" --eps 2/255 \
        --defences none,ttc,ttc-clean,ttc-twin
}

for step in "${@:-transfer full rest}"; do
    for one in $step; do "$one"; done
done
