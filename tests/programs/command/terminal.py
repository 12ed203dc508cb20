#!/usr/bin/env python3
"""terminal.py WANTED END COMMAND...: runs COMMAND on a terminal of its own. When WANTED is seen there, END is typed; where it names
a signal, that is sent. Prints how COMMAND ended, and whether the terminal is as it was."""

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time

wanted, end, *command = sys.argv[1:]
ours, theirs = os.openpty()
fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
before = termios.tcgetattr(theirs)


def take_terminal():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


child = subprocess.Popen(
    command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=take_terminal
)
seen, is_asked, latest = b"", False, time.monotonic() + 60
while True:
    # Asked first: what it has printed by then is read before the loop ends.
    has_ended = child.poll() is not None
    if select.select([ours], [], [], 0.05)[0]:
        seen += os.read(ours, 65536)
    elif has_ended:
        break
    if not is_asked and wanted.encode() in seen:
        is_asked = True
        assert termios.tcgetattr(theirs) != before, "the command has not taken the terminal"
        if hasattr(signal, end):
            child.send_signal(getattr(signal, end))
        else:
            os.write(ours, end.encode())
    if time.monotonic() > latest:
        child.kill()
        sys.exit(f"it does not end, and has printed {seen!r}")

is_left = seen.rfind(b"\x1b[?1049l") > seen.rfind(b"\x1b[?1049h") and seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l")
is_same = termios.tcgetattr(theirs) == before
print("seen" if is_asked else f"not seen in {seen!r}", f"status {child.returncode}", end=", ")
print("the terminal is as it was" if is_left and is_same else f"the terminal is not as it was: {is_left} {is_same}")
