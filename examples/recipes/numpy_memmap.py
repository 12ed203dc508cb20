"""A numpy array in a file that a process stores into, row by row. Usage: numpy_memmap.py [COPIES]

You learn that `snapshim cp` takes an array out of the hands of a process that has it mapped shared and never makes a system call for a
change. The writer fills the rows in order with the number of its round: at any instant the numbers fall once, by one."""

import subprocess
import sys

from recipe import compare, fresh, need_module, path, python, snapshim, stop

numpy = need_module("numpy")
ROWS, COLUMNS = 4096, 1024
WRITER = f"""
import numpy, sys
array = numpy.memmap(sys.argv[1], dtype="int64", mode="w+", shape=({ROWS}, {COLUMNS}))
array[:] = 1
print("ready", flush=True)
number = 2
while True:
    for row in array:
        row[:] = number
    number += 1
"""


def is_good(copy):
    array = numpy.fromfile(f"{copy}/array", dtype="int64").reshape(ROWS, COLUMNS)
    newest = array[0, 0]
    rows = (array == newest).all(axis=1)
    # One row may be half written at the instant, from its begin.
    flat = array.reshape(-1)
    count = int((flat == newest).sum())
    return bool((flat[:count] == newest).all() and (flat[count:] == newest - 1).all() and rows[: count // COLUMNS].all())


fresh("live")
writer = python(WRITER, path("live", "array"))
status = compare(
    int(sys.argv[1]) if len(sys.argv) > 1 else 10,
    [
        ("snapshim cp", lambda copy: snapshim("cp", path("live", "array"), copy)),
        ("cp", lambda copy: subprocess.run(["cp", path("live", "array"), copy], check=True)),
    ],
    is_good,
)
stop(writer)
sys.exit(status)
