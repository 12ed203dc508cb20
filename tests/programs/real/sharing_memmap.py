"""numpy.memmap: one process stores, another holds what it loaded.

    PROGRAM store FILE   counts through all of FILE (mode "r+") until its standard input ends; prints "ready" after the first round
    PROGRAM hold FILE    loads FILE (mode "c"); prints "ready", and when its standard input ends whether it still is what it was
"""

import os
import sys

import numpy

what, path = sys.argv[1:]
numbers = numpy.memmap(path, dtype="i8", mode={"store": "r+", "hold": "c"}[what])
if what == "hold":
    before = numbers.copy()
    print("ready", flush=True)
    sys.stdin.read()
    print("same" if (before == numbers).all() else "changed")
else:
    os.set_blocking(0, False)
    first = True
    while True:
        numbers += 1
        numbers[::1000] -= 1
        if first:
            print("ready", flush=True)
        first = False
        try:
            if os.read(0, 1) == b"":
                break
        except BlockingIOError:
            pass
    print("stored")
