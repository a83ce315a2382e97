#!/bin/sh
# Stands in for the process that trains, which `falaj` brings: the same lines, the same leash, no training. What it does is
# told by words in its data. The real one is driven by the tests of `falaj`.
dir=$1
if [ "$2" = --check ]; then
    if grep -q crash "$dir/data-0.jsonl"; then echo "no memory" >&2; exit 3; fi
    if grep -q bad "$dir/data-0.jsonl"; then
        echo '{"event":"failed","reason":"line 1: not a conversation","validation":true}'
        exit 1
    fi
    echo '{"event":"validated","rows":2,"data_tokens":40,"tokens_per_step":20,"steps":4,"expected_seconds":2}'
    exit 0
fi
step=$(cat "$dir/step" 2>/dev/null || echo 0)
while [ "$step" -lt 4 ]; do
    step=$((step + 1))
    echo "{\"event\":\"step\",\"step\":$step,\"steps\":4,\"loss\":2.5,\"learning_rate\":0.001,\"grad_norm\":1,\"tokens\":20,\"tokens_per_second\":10,\"seconds_left\":1}" | tee -a "$dir/events.jsonl"
    echo "{\"event\":\"evaluation\",\"step\":$step,\"loss\":2.6,\"accuracy\":0.25}" >>"$dir/events.jsonl"
    echo "$step" >"$dir/step"
    echo "{\"event\":\"checkpoint\",\"step\":$step,\"train_loss\":2.5,\"valid_loss\":2.6,\"valid_accuracy\":0.25}"
    # Waits for its leash the first time it is run: until it is asked to stop.
    if grep -q slow "$dir/data-0.jsonl" && [ ! -e "$dir/paused" ]; then
        touch "$dir/paused"
        read -r word && exit 1
        echo "{\"event\":\"stopped\",\"step\":$step}"
        exit 0
    fi
    # Takes more memory than it may, and keeps it.
    if grep -q greedy "$dir/data-0.jsonl"; then
        hoard=$(head -c 100000000 /dev/zero | tr '\0' x)
        read -r word
        exit ${#hoard}
    fi
    # Hears nothing.
    if grep -q deaf "$dir/data-0.jsonl"; then exec sleep 1000; fi
done
name=$(sed -n 's/^  "name": "\(.*\)",$/\1/p' "$dir/job.json")
echo "{\"event\":\"done\",\"model\":\"$name\",\"trained_tokens\":80,\"energy\":{\"joules\":7.2,\"grade\":\"E\",\"method\":\"cpu_time_assumed\",\"watts_per_thread\":4.0}}"
