#!/bin/sh
# A pull worker with curl: runs the command line HANDLER for one job after the other, with the payload on its standard input.
# It needs HOLDFAST_URL, HOLDFAST_API_KEY (scope `work`), QUEUE and HANDLER. Start it again when it ends: its lease was lost.
set -eu
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
call() { curl -sS --fail-with-body --retry 9 --retry-connrefused -H "Authorization: Bearer ${HOLDFAST_API_KEY:-}" \
    -H 'Content-Type: application/json' --data-binary "$2" "$HOLDFAST_URL/v1/workers$1"; }
read_answer() { python3 -c 'import json, sys; answer = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$@"; }
call '' '{"name": "shell", "queues": ["'"$QUEUE"'"], "concurrency": 1,
    "client": {"name": "curl", "version": "1", "language": "sh"}}' > "$scratch/worker"
worker=$(read_answer "$scratch/worker" 'answer["id"]') beat=$(read_answer "$scratch/worker" 'answer["heartbeat_seconds"]')
while call "/$worker/pull" '{"max": 1, "wait_seconds": 30}' > "$scratch/pulled"; do
    job=$(read_answer "$scratch/pulled" '"".join(job["id"] for job in answer["jobs"])')
    [ -n "$job" ] || continue
    # The heartbeat goes on while the handler runs, and ends with this process, however that ends.
    (while kill -0 $$ && call "/$worker/heartbeat" '{"running": ["'"$job"'"]}'; do sleep "$beat"; done > /dev/null 2>&1) &
    beats=$! outcome=completed
    read_answer "$scratch/pulled" 'json.dumps(answer["jobs"][0]["payload"])' | sh -c "$HANDLER" > "$scratch/result" 2>&1 || outcome=failed
    kill "$beats" 2> /dev/null || true
    python3 -c 'import json, sys; job = json.load(open(sys.argv[1]))["jobs"][0]; text = open(sys.argv[2]).read().strip()
print(json.dumps({"outcomes": [{"job": job["id"], "fence": job["fence"], "outcome": sys.argv[3],
    "result" if sys.argv[3] == "completed" else "error": text}]}))' "$scratch/pulled" "$scratch/result" $outcome > "$scratch/outcome"
    call "/$worker/finish" "@$scratch/outcome" > /dev/null
done
