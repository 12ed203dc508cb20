"""An unmodified program gets snapshots by SNAPSHIM_FILES: its private mappings of matching files stay as they were.

    LD_PRELOAD=target/release/libsnapshim.so SNAPSHIM_FILES='/tmp/*.bin' python3 examples/unmodified.py /tmp/data.bin

Nothing here knows of snapshim. Without it, the last line says that the mapping changed.
"""

import mmap
import subprocess
import sys

path = sys.argv[1]
with open(path, "wb") as file:
    file.write(b"old " * 262144)

with open(path, "rb") as file:
    mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
views = [("mmap", lambda: mapping[:8])]
try:
    import numpy

    array = numpy.memmap(path, dtype="S4", mode="c")
    views.append(("numpy.memmap", lambda: array[:2].tobytes()))
except ImportError:
    pass

subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=4096", "count=16", "conv=notrunc", "status=none"], check=True)

with open(path, "rb") as file:
    print("file:", file.read(8))
changed = False
for name, view in views:
    print(f"{name}:", view())
    changed |= view() != b"old old "
print("the mapping CHANGED with the file" if changed else "the mapping is as it was")
sys.exit(changed)
