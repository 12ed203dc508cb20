#!/bin/sh
# Installs what the tests use and the machine lacks: sqlite3, perl and fsx as writers, numpy as a mapper, libraries that save over
# what they map, what the recipes copy, debuggers, Python's own tests, and programs that confine themselves.
set -u
cd "$(dirname "$0")/.."
missing=""
# The command, and its package where that is called otherwise.
for tool in sqlite3 perl git rsync fio logrotate g++ javac:openjdk-17-jdk-headless go:golang-go mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs \
    qemu-img:qemu-utils nbdkit nbdcopy:libnbd-bin redis-server restic borg:borgbackup fuse2fs e2fsck:e2fsprogs \
    gdb strace valgrind ps:procps file man:man-db ssh:openssh-client sshd:openssh-server chronyd:chrony; do
    command -v "${tool%%:*}" >/dev/null || [ -x "/usr/sbin/${tool%%:*}" ] || missing="$missing ${tool##*:}"
done

python3 -c 'import test.test_mmap' 2>/dev/null || /usr/bin/python3 -c 'import test.test_mmap' 2>/dev/null || missing="$missing libpython3-testsuite"

# Into an environment of its own: nothing of the user's Python changes.
pip_install() {
    { [ -x target/venv/bin/pip ] || python3 -m venv target/venv; } >/dev/null 2>&1 &&
        target/venv/bin/pip install -q "$@" >/dev/null 2>&1
}

if ! python3 -c 'import numpy' 2>/dev/null && ! target/venv/bin/python3 -c 'import numpy' 2>/dev/null; then
    if ! pip_install numpy; then
        rm -rf target/venv
        missing="$missing python3-numpy"
    fi
fi

install_libraries() {
    for library in numpy safetensors pyarrow lmdb duckdb; do
        target/venv/bin/python3 -c "import $library" 2>/dev/null || pip_install "$library" ||
            echo "not installable here: $library; its test is skipped" >&2
    done
    # From 2 on it maps no IPC files any more.
    target/venv/bin/python3 -c 'import polars; exit(int(polars.__version__.split(".")[0]) > 1)' 2>/dev/null || pip_install 'polars<2' ||
        echo "not installable here: polars<2; its test is skipped" >&2
}
install_libraries

# The file system exerciser, a writer that checks what it wrote.
[ "$(target/tools/bin/fsx --version 2>/dev/null)" = "fsx 0.3.2" ] ||
    "${CARGO:-cargo}" install -q fsx --version 0.3.2 --locked --root target/tools >/dev/null 2>&1 ||
    echo "not installable here: fsx; its tests are skipped" >&2

[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y $missing
else
    echo "not installed and not installable here:$missing; tests that use them are skipped" >&2
fi
exit 0
