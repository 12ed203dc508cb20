# The address sanitizer, with its leak checker: a program without an error, and programs with one each.
gcc -w -g -O1 -pthread -fsanitize=address -static-libasan -o sanitized_victim "$PROGRAMS/unharmed_victim.c"
gcc -w -g -O1 -fno-builtin -fsanitize=address -static-libasan -o sanitized "$PROGRAMS/unharmed_errors.c"
./sanitized_victim 2>&1
echo $?
cat written
for what in nothing read write stdio fault leak freed; do
    ./sanitized $what 2>&1 | sed '/Shadow bytes/,/^  /d'
    echo "$what: ${PIPESTATUS[0]}"
done
