/* executed: says that it runs. */
#include <stdio.h>

#ifdef LIKE_GO
/* The note that Go's linker makes. */
__asm__(".pushsection .note.go.buildid, \"a\", @note\n"
        ".long 4, 4, 4\n.asciz \"Go\\0\"\n.asciz \"abc\"\n"
        ".popsection\n");
#endif

int main(void) {
    printf("it runs\n");
    return 0;
}
