#!/bin/sh
# Installs what the tests use and the machine lacks: sqlite3 and perl as writers, numpy as a mapper.
set -u
cd "$(dirname "$0")/.."
missing=""
for tool in sqlite3 perl; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
done
if ! python3 -c 'import numpy' 2>/dev/null && ! target/venv/bin/python3 -c 'import numpy' 2>/dev/null; then
    # An environment of its own: nothing of the user's Python changes.
    if ! { python3 -m venv target/venv && target/venv/bin/pip install -q numpy; } >/dev/null 2>&1; then
        rm -rf target/venv
        missing="$missing python3-numpy"
    fi
fi
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y $missing
else
    echo "not installed and not installable here:$missing; tests that use them are skipped" >&2
fi
exit 0
