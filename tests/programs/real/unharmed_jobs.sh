# Job control, pipelines, traps, redirections.
set -m
is_stopped() { case $(ps -o stat= "$1") in T*) true ;; *) false ;; esac; }
sleep 1000 &
sleeper=$!
jobs
kill -STOP %1
until is_stopped $sleeper; do :; done
jobs
bg %1
while is_stopped $sleeper; do :; done
jobs
kill -INT %1
wait $sleeper
echo "interrupted: $?"
(exit 7) &
wait $!
echo "ended: $?"
set +m
seq 20000 | sort -rn | tee >(wc -c >counted) | tail -1
until [ -s counted ]; do :; done
cat counted
false | true | (exit 3)
echo "${PIPESTATUS[@]}"
yes | head -2
echo "${PIPESTATUS[@]}"
coproc cat
echo through >&"${COPROC[1]}"
read -r line <&"${COPROC[0]}"
echo "$line"
diff <(seq 3) <(seq 4)
exec 9<<<here
cat <&9
exec 9<&-
(trap 'echo trapped' USR1; kill -USR1 $BASHPID)
bash -c 'kill -SEGV $$' 2>/dev/null
echo "default: $?"
bash -c 'trap "echo trapped; exit 4" SEGV; kill -SEGV $$; echo after'
echo "trapped: $?"
bash -c 'trap "" SEGV; exec bash -c "kill -SEGV \$\$; echo ignored"'
timeout 0.2 sleep 1000
echo "timed out: $?"
ls /proc/self/fd | wc -l
grep -E 'Sig(Blk|Ign|Pnd)' /proc/self/status
