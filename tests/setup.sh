#!/bin/sh
# Installs what the tests use and the machine lacks: sqlite3 and perl as writers.
set -u
missing=""
for tool in sqlite3 perl; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y $missing
else
    echo "not installed and not installable here:$missing; tests that use them are skipped" >&2
fi
exit 0
