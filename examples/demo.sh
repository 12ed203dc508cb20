#!/bin/sh
# A live SQLite database, backed up by cp and by snapshim cp. Run it by `make demo`.
set -eu
cd "$(dirname "$0")/.."
[ -x target/release/snapshim ] || { echo "target/release/snapshim is missing: run make first" >&2; exit 1; }
files=$(mktemp -d)
table=$(mktemp -d /dev/shm/snapshim-demo-XXXXXX)
trap 'rm -rf "$files" "$table"' EXIT
PATH=$PWD/target/release:$PATH SNAPSHIM_DIR=$table python3 examples/demo.py "$files"
