#!/usr/bin/env bash
# Sends requests that schemathesis makes of /openapi.json to a server on the demo model: no status of 500 or above.
#
#     pip install schemathesis==4.32.5
#     KVANT_TOOLS=FOLDER_OF_PROGRAMS tools/suites/schemathesis.sh target/release/kvant [EXAMPLES]
set -euo pipefail
cd "$(dirname "$0")/../.."
started=$(mktemp)
"$1" serve demo -n 16 --port 0 --json >"$started" &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -f "$started"' EXIT
for _ in $(seq 100); do
    [ -s "$started" ] && break
    sleep 0.1
done
address=$(sed 's/.*"address":"\([^"]*\)".*/\1/' "$started")
"${KVANT_TOOLS:+$KVANT_TOOLS/}schemathesis" run "$address/openapi.json" --checks not_a_server_error \
    --max-examples "${2:-10}" --request-timeout 30
