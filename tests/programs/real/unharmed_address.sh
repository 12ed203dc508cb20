# The address sanitizer, with its leak checker: a program without an error, and programs with one each. Where memory was
# allocated it walks the stack quickly, and behind main() into whatever is there: two frames are right.
export ASAN_OPTIONS=malloc_context_size=2
set -e
gcc -w -g -O1 -fno-omit-frame-pointer -pthread -fsanitize=address -static-libasan -o sanitized_victim "$SOURCES/unharmed_victim.c"
gcc -w -g -O1 -fno-omit-frame-pointer -fno-builtin -fsanitize=address -static-libasan -o sanitized "$SOURCES/unharmed_errors.c"
set +e
./sanitized_victim 2>&1
echo $?
cat written
for what in nothing read write stdio fault leak freed; do
    ./sanitized $what 2>&1 | sed '/Shadow bytes/,/^  /d'
    echo "$what: ${PIPESTATUS[0]}"
done
