# A program without an error, what it allocates, and programs with one each.
valgrind --leak-check=full --show-leak-kinds=all --error-exitcode=9 "$PROGRAMS/real/unharmed_victim" 2>&1
echo $?
for what in nothing write stdio leak freed; do
    valgrind --leak-check=full --show-leak-kinds=all --error-exitcode=9 "$PROGRAMS/real/unharmed_errors" $what 2>&1
    echo "$what: $?"
done
cat written
