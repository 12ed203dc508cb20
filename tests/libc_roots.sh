#!/bin/sh
# Runs the integration tests with other versions of glibc: in Debian roots that debootstrap makes, each once, in target/roots.
#
#   tests/libc_roots.sh [SUITE...]     SNAPSHIM_TESTS="start transparent" runs these alone
#
# The tests themselves are linked statically, so that they run in any root; their programs are compiled there. The command is linked
# with the root's libc where that is older than the machine's. The root sees this directory at its own path, and the machine's /dev,
# /proc and /sys. What could not be made is said aloud.
set -u
cd "$(dirname "$0")/.." && here=$(pwd)
mirror="${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
packages=gcc,g++,libc6-dev,binutils,make,strace,procps,perl,python3,sqlite3
# Of bullseye 2.31, bookworm 2.36, trixie 2.41, sid the newest.
suites="${*:-bullseye bookworm trixie sid}"
# Tests that have themselves loaded under the library: they are static here.
skipped="--skip life::a_death_without_a_slot_is_noticed --skip life::thousands_of_short_threads_leave_no_slot_behind"
target=x86_64-unknown-linux-gnu
# By chance alone, or about this machine and this source, not about libc.
unasked="soak storm oracle architecture layers readme coverage_matrix devices programs_unharmed real_writers saving_over
    namespaces"

skip() {
    echo "SKIPPED test-libc $1: $2"
}

# Makes the root of a suite, under another name first: a run that is killed leaves nothing half done.
make_root() {
    [ -d "target/roots/$1" ] && return 0
    if ! command -v debootstrap >/dev/null && ! apt-get install -qq -y debootstrap >/dev/null 2>&1; then
        skip "$1" "debootstrap is not installed"
        return 1
    fi
    rm -rf "target/roots/$1.partial" && mkdir -p target/roots
    if ! debootstrap --variant=minbase --include="$packages" "$1" "target/roots/$1.partial" "$mirror" \
        >"target/roots/$1.log" 2>&1; then
        skip "$1" "debootstrap failed: $(tail -n 1 "target/roots/$1.log")"
        return 1
    fi
    mv "target/roots/$1.partial" "target/roots/$1"
}

# Links the command anew if the one that `make` builds asks for a newer libc than a suite has.
make_command() {
    made=$here/target/programs-of-roots/$1.snapshim && rm -f "$made"
    unshare --mount "$here/tests/libc_roots.sh" inside "$1" "$here/target/release/snapshim" --version >/dev/null 2>&1 && return 0
    mkdir -p target/roots-command/tmp
    printf '#!/bin/sh\nexec unshare --mount "%s" inside "%s" gcc "$@"\n' "$here/tests/libc_roots.sh" "$1" >target/roots-command/gcc
    chmod +x target/roots-command/gcc
    # What the linker reads from elsewhere: Rust's own libraries.
    TMPDIR=$here/target/roots-command/tmp SNAPSHIM_ROOT_SEES=$(rustc --print sysroot) \
        CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 "${CARGO:-cargo}" rustc --quiet --release \
        --package snapshim-command --bin snapshim --target-dir target/roots-command \
        -- -C "linker=$here/target/roots-command/gcc" -C "metadata=$1" && cp target/roots-command/release/snapshim "$made"
}

# In a mount namespace of its own: the root with what it sees of this machine, and programs of its own. It is a mount, and the root
# of the namespace: the tests make mounts and user namespaces, which the kernel refuses after a mere chroot(2).
if [ "${1:-}" = inside ]; then
    root=$here/target/roots/$2
    shift 2
    mkdir -p "$root$here" "$root/dev/shm" "$here/target/programs-of-roots/${root##*/}" "$here/target/test-programs"
    mount --make-rprivate / && mount --bind "$root" "$root" && mount --rbind "$here" "$root$here" || exit 1
    for directory in /dev /proc /sys ${SNAPSHIM_ROOT_SEES:-}; do
        mkdir -p "$root$directory"
        mount --rbind "$directory" "$root$directory" || exit 1
    done
    mount --bind "$here/target/programs-of-roots/${root##*/}" "$root$here/target/test-programs" || exit 1
    command=$here/target/programs-of-roots/${root##*/}.snapshim
    [ ! -e "$command" ] || mount --bind "$command" "$root$here/target/release/snapshim" || exit 1
    cd "$root" && pivot_root . mnt && exec chroot . sh -c 'umount -l /mnt && cd "$0" && exec "$@"' "$here" "$@"
    exit 1
fi

if [ "$(id -u)" != 0 ]; then
    for suite in $suites; do skip "$suite" "only root makes a root"; done
    exit 0
fi
if ! RUSTFLAGS="-C target-feature=+crt-static" "${CARGO:-cargo}" test -p snapshim --tests --no-run --target "$target" \
    --target-dir target/static --color never 2>target/static.log; then
    cat target/static.log
    exit 1
fi
binary=$(sed -n 's/^ *Executable tests\/main.rs (\(.*\))$/\1/p' target/static.log)
modules=$(sed -n 's/^mod \(.*\);$/\1/p' tests/main.rs | grep -vx common)
# The tests look at what the environment says of snapshim.
asked=${SNAPSHIM_TESTS:-}
unset SNAPSHIM_TESTS
status=0
for suite in $suites; do
    make_root "$suite" || continue
    make_command "$suite" || { echo "$suite: the command does not link with its libc"; status=1; continue; }
    logs=target/roots/$suite.tests && rm -rf "$logs" && mkdir -p "$logs"
    echo "--- $suite: $(chroot "target/roots/$suite" ldd --version | head -n 1)"
    for name in $modules; do
        case " ${asked:-$name} " in *" $name "*) ;; *) continue ;; esac
        [ -z "$asked" ] && case " $(echo $unasked) " in *" $name "*) continue ;; esac
        tests=$("$binary" --list "$name::" | sed -n "s/^\($name::.*\): test$/\1/p")
        if unshare --mount "$here/tests/libc_roots.sh" inside "$suite" env --default-signal=INT,QUIT "$binary" --nocapture --exact $skipped $tests >"$logs/$name" 2>&1 </dev/null; then
            echo "$suite $name: ok"
        else
            echo "$suite $name: FAILED ($logs/$name)"
            status=1
        fi
    done
    grep -h '^SKIPPED' "$logs"/* || true
done
exit $status
