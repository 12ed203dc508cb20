# A program with threads, children and a shell, traced with all of them; then one that is killed.
for argument in '' crash; do
    strace -f -o trace -e trace=process "$PROGRAMS/real/unharmed_victim" $argument
    echo $?
    grep -oE 'exited with [1-9][0-9]*|killed by [A-Z]+|execve\("[^"]*"' trace | sort -u
    cat written
done
strace -f -c -o table "$PROGRAMS/real/unharmed_victim"
echo $?
