# Sourced by the scripts that plant faults in a copy of the sources under target/planted and have a test find them.
#
# plant TEST FILTER PATTERN...   for each fault that `faults` prints (what is left out | where | as sed(1) leaves it out) the test
# has
#                                to fail, and its output to have a line with one of the patterns: the first pattern that is in it
#                                says what was found
copy=target/planted
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
unset CARGO_TARGET_DIR

refresh() {
    mkdir -p "$copy" && tar -c Cargo.toml Cargo.lock src shim examples tests | tar -x -m -C "$copy"
}

build() {
    (cd "$copy" && cargo build --quiet --release --package libsnapshim && cargo test --quiet --test integration --no-run) >"$copy/log" 2>&1
}

found() {
    for pattern in "$@"; do
        grep -m1 -e "$pattern" "$copy/log" && return
    done
    return 1
}

miss() {
    echo "MISSED  $1"
    missed=$((missed + 1))
}

plant() {
    test=$1 filter=$2 caught=0 missed=0
    shift 2
    faults >"$copy.faults"
    while IFS='|' read -r name file edit; do
        name=${name% } file=$(echo $file)
        refresh
        sed -i "$edit" "$copy/$file"
        began=$(date +%s)
        if cmp -s "$file" "$copy/$file"; then
            miss "$name: it is not in $file any more as this script knows it"
        elif ! build; then
            tail -20 "$copy/log"
            miss "$name: does not compile without it"
        elif began=$(date +%s) && (cd "$copy" && cargo test --quiet --test integration "$test::$filter" -- --nocapture) >"$copy/log" 2>&1 </dev/null; then
            miss "$name: without it the test passes"
        elif ! found=$(found "$@"); then
            tail -20 "$copy/log"
            miss "$name: the test does not end well, but does not say why"
        else
            echo "caught  $name, in $(($(date +%s) - began)) s: $found" | cut -c1-200
            caught=$((caught + 1))
        fi
    done <"$copy.faults"
    echo "$caught passed, $missed failed"
    [ "$missed" = 0 ]
}
