#!/bin/sh
# A live SQLite database, backed up from a plain private mapping and from a snapshot. Run it by `make demo`.
set -eu
cd "$(dirname "$0")/.."
library=$PWD/target/release/libsnapshim.so
[ -e "$library" ] || { echo "$library is missing: run make first" >&2; exit 1; }
files=$(mktemp -d)
table=$(mktemp -d /dev/shm/snapshim-demo-XXXXXX)
trap 'rm -rf "$files" "$table"' EXIT
LD_PRELOAD=$library SNAPSHIM_DIR=$table python3 examples/demo.py "$files"
