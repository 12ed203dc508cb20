"""signal_python.py FILE HOW: after a relocation in this process, from where on the shim handles SIGSEGV, the interpreter meets one."""

import ctypes
import mmap
import os
import signal
import sys
import threading
import time

# Blocked in the other thread, so that this one gets what is sent to the process.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGSEGV])
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGSEGV])
with open(sys.argv[1], "r+b") as file:
    file.write(b"the old" * 10000)
    file.flush()
    private = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    private[100] = 7
    os.ftruncate(file.fileno(), 0)
    if "LD_PRELOAD" in os.environ:
        assert private[4] == ord("o") and private[100] == 7

if sys.argv[2] == "fault":
    ctypes.string_at(0)

seen = []
signal.signal(signal.SIGSEGV, lambda number, frame: seen.append(number))
os.kill(os.getpid(), signal.SIGSEGV)
print(seen, signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGSEGV]))
os.kill(os.getpid(), signal.SIGSEGV)
print(seen, signal.sigpending(), signal.sigtimedwait([signal.SIGSEGV], 5).si_signo)
print(seen, signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGSEGV]))
print(signal.getsignal(signal.SIGSEGV) is not None)
