"""Maps a log copy-on-write; when its input ends, says whether the mapping is still what the log was."""

import mmap
import sys

with open(sys.argv[1], "rb") as log:
    whole = log.read()
    mapped = mmap.mmap(log.fileno(), 0, access=mmap.ACCESS_COPY)
print("ready", flush=True)
sys.stdin.read()
print("same" if mapped[:] == whole else "changed")
