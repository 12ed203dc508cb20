# A parallel build, twice: what is made, and that nothing is made again.
for i in 1 2 3 4 5 6 7 8; do
    printf '#include "all.h"\nint part%d(void) { return LIMIT + %d; }\n' $i $i >part$i.c
done
cat >main.c <<'END'
#include <stdio.h>
#include "all.h"
int main(void) { printf("%d\n", part1() + part8()); return 0; }
END
cat >Makefile <<'END'
PARTS = $(patsubst %,part%.o,1 2 3 4 5 6 7 8)
program: main.o libparts.a
	@gcc -o $@ $^
libparts.a: $(PARTS)
	@rm -f $@ && ar rcD $@ $(PARTS)
%.o: %.c all.h
	@gcc -O1 -g -Wall -c -o $@ $<
all.h:
	@{ echo '#define LIMIT 10'; for i in 1 2 3 4 5 6 7 8; do echo "int part$$i(void);"; done; } >$@
broken:
	@false
END
make -s -j4
make -j4 program
touch part3.c
make -s -j4 && ./program
sha256sum -- *.o libparts.a program
make -j2 broken
echo $?
