#!/bin/sh
# Runs what needs more than the compiler, miri and the integration tests, and counts what was skipped.
#
# Most tests wait most of the time, so several modules of the one test program run at once, each in a process of its own, and in
# each several tests. Those of chance do as much as they can in the time they have: they come one after the other, behind all that
# others want of the processors. The test program is built without optimization: what it runs is optimized, the library and C
# programs.
set -u
cd "$(dirname "$0")/.."
logs=target/integration
by_chance="storm soak oracle"
# The longest of the others, which are begun first.
long="programs_unharmed recipes mapper relocation sharing life saving_over coverage_matrix real_writers stop_points command
    confined queues descriptors kill_points kernel_stores fsx"

# One after the other; what each says goes to a file.
if [ "${1:-}" = run ]; then
    shift
    status=0
    for name in "$@"; do
        began=$(date +%s)
        if [ "$name" = miri ]; then
            tests/miri.sh
        else
            binary=$(cat "$logs/binary")
            case " $by_chance " in *" $name "*) after="nice -n 10" ;; *) after= ;; esac
            # Of what runs in the background, a shell has SIGINT ignored: then no test could interrupt anything.
            $after env --default-signal=INT,QUIT "$binary" --nocapture --exact $("$binary" --list "$name::" | sed -n "s/^\($name::.*\): test$/\1/p")
        fi >"$logs/$name.log" 2>&1 </dev/null
        ended=$?
        echo "$ended" >"$logs/$name.status"
        [ "$ended" = 0 ] || status=1
        echo "$name: $([ "$ended" = 0 ] && echo ok || echo FAILED), $(($(date +%s) - began)) s"
    done
    exit $status
fi

rm -rf "$logs" && mkdir -p "$logs"
if ! ${CARGO:-cargo} test --workspace --exclude snapshim-command --no-run --lib --tests --color never 2>"$logs/build"; then
    cat "$logs/build"
    exit 1
fi
sed -n 's/^ *Executable tests\/main.rs (\(.*\))$/\1/p' "$logs/build" >"$logs/binary"
modules=$(sed -n 's/^mod \(.*\);$/\1/p' tests/main.rs | grep -vx common)
others=$(echo "$modules" | grep -vxF "$(printf '%s\n' $by_chance $long)")

export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$(($(nproc) * 2))}"
# Each line is what one after the other runs; as many lines at once as there are processors, and one of those that mostly wait.
printf '%s\n' $long "$by_chance" miri $others | xargs -P "$(($(nproc) + 1))" -L 1 "$0" run
status=$?

for name in miri $modules; do
    echo "--- $name"
    cat "$logs/$name.log"
done >target/integration.log
cat target/integration.log
passed=$(sed -n 's/^test result: [a-zA-Z]*\. \([0-9]*\) passed.*/\1/p' target/integration.log | awk '{ n += $1 } END { print n + 0 }')
failed=$(sed -n 's/^test result: .* \([0-9]*\) failed.*/\1/p' target/integration.log | awk '{ n += $1 } END { print n + 0 }')
skipped=$(grep -c '^SKIPPED' target/integration.log)
bad=$(grep -Lx 0 "$logs"/*.status | sed 's/.*\/\(.*\)\.status/\1/')
[ -z "$bad" ] || echo "failed:" $bad
echo "$passed passed, $failed failed, $skipped skipped"
exit $status
