// signal_go FILE: nil dereferences in Go code beside C code, before and after a relocation, from where on the shim handles SIGSEGV.
package main

/*
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static int relocate(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, 1 << 20) != 0)
        return -1;
    char *at = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    if (at == MAP_FAILED)
        return -1;
    at[100] = 7;
    if (ftruncate(fd, 0) != 0)
        return -1;
    return getenv("LD_PRELOAD") ? at[100] + at[5000] : 7;
}
*/
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"sync"
)

type thing struct{ field int }

var sink int

func read(it *thing) (caught int) {
	defer func() {
		if recover() != nil {
			caught = 1
		}
	}()
	return it.field
}

func nils(rounds int) int {
	caught := 0
	for i := 0; i < rounds; i++ {
		caught += read(nil)
	}
	return caught
}

func main() {
	fmt.Println(nils(1000))
	fmt.Println(C.relocate(C.CString(os.Args[1])))
	var all sync.WaitGroup
	for i := 0; i < 4; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			nils(2000)
			runtime.GC()
		}()
	}
	all.Wait()
	fmt.Println(nils(1000))
	if len(os.Args) > 2 {
		var nothing *thing
		sink = nothing.field
	}
}
