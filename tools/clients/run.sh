#!/usr/bin/env bash
# Starts a server on the demo model with a chat template, and talks to it with the clients of others.
#
#     tools/clients/run.sh target/release/kvant PYTHON [FOLDER]
#
# PYTHON has the packages of check.py. FOLDER has those of check.mjs; without it, Node is left out. With PAGE=1, the page is
# tested instead, in Chromium: PYTHON has Playwright, and axe-core lies in node_modules beside it.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
cp assets/demo/* "$folder"
printf '%s' '{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}' >"$folder/chat_template.jinja"
"$1" serve "$folder" --port 0 --json >"$folder/started" &
server=$!
for _ in $(seq 100); do
    [ -s "$folder/started" ] && break
    sleep 0.1
done
address=$("$2" -c 'import json, sys; print(json.load(sys.stdin)["address"])' <"$folder/started")
if [ -n "${PAGE:-}" ]; then
    "$2" tests/page/test_page.py "$address/" --chromium "$(command -v chromium)" \
        --axe "$(dirname "$2")/../node_modules/axe-core/axe.min.js"
    exit
fi
"$2" tools/clients/check.py "$address"
[ -z "${3:-}" ] || node tools/clients/check.mjs "$address" "$3"
