# Breakpoints, watchpoints, signals, calls into the program, a crash; then a process that is attached to and let go.
victim=$PROGRAMS/real/unharmed_victim
gdb() {
    command gdb -nx -batch -iex 'set debuginfod enabled off' -ex 'handle SIGSEGV nostop noprint pass' -ex 'set print thread-events off' "$@"
}
gdb -ex 'break bump if counter == 5' -ex run -ex backtrace -ex 'print counter' -ex 'watch counter' -ex continue -ex delete \
    -ex 'break on_signal' -ex continue -ex continue -ex 'backtrace' -ex finish -ex delete -ex 'call (long)write(1, "called\n", 7)' \
    -ex continue "$victim" 2>&1
gdb -ex 'break crash' -ex run -ex 'handle SIGSEGV stop print' -ex 'handle SIGUSR1 nostop' -ex continue -ex continue -ex 'backtrace 1' \
    -ex 'print $_siginfo.si_signo' -ex 'print $_siginfo._sifields._sigfault.si_addr' -ex delete -ex 'handle SIGSEGV nostop noprint' \
    -ex continue --args "$victim" crash 2>&1
mkfifo held
cat held >copied &
waiting=$!
exec 9>held
gdb -p $waiting -ex 'print $_exitcode' -ex 'call (int)getppid() > 1' -ex detach 2>&1 | grep '^\$'
echo let go >&9
exec 9>&-
wait $waiting
echo $?
cat copied written
