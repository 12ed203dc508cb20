"""Loads a file, saves over it, and says what became of what was loaded and of the file.

    PROGRAM LOAD SAVE   prints checksums: "before" and "after" of what was loaded, "saving" of what is saved, "again" of a second load
    PROGRAM read SAVE   prints "file" and the checksum of what a plain read finds
"""

import hashlib
import sys

import numpy

NUMBERS = numpy.random.default_rng(1).integers(0, 1 << 60, 100_003)

# What is saved over NUMBERS, computed from what was loaded.
SAVES = {
    "same": lambda loaded: loaded,
    "shorter": lambda loaded: loaded[::3],
    "longer": lambda loaded: numpy.concatenate([loaded[::-1], loaded + 1]),
}


def say(what, numbers):
    print(what, hashlib.sha256(numpy.ascontiguousarray(numbers).tobytes()).hexdigest(), flush=True)


def main(loads, save, read):
    """`loads[name](path)` gives an array that lies in the mapping; `save(path, array)` writes the file; `read(path)` does not map it."""
    load, what = sys.argv[1:]
    if load == "read":
        return say("file", read(what))
    save(what, NUMBERS)
    loaded = loads[load](what)
    if isinstance(loaded, numpy.ndarray) and loaded.flags.writeable:
        # Not in every page: some are the process's own, some are the file's.
        loaded[::1000] += 1
    say("before", loaded)
    new = SAVES[what](loaded)
    say("saving", new)
    try:
        save(what, new)
    except Exception as error:
        print("error", type(error).__name__, str(error).splitlines()[0], flush=True)
    say("after", loaded)
    say("again", loads[load](what))
