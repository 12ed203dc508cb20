"""What the recipes share: a directory and a table of their own, the command, and how they end. A missing tool ends a recipe with status 77."""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SNAPSHIM = shutil.which("snapshim") or sys.exit("snapshim is not in PATH: run make first, then PATH=$PWD/target/release:$PATH")
# Where much is written, in memory: the writers are then as fast as they can be.
place = tempfile.mkdtemp(prefix="snapshim-recipe-", dir="/dev/shm")
if "SNAPSHIM_DIR" not in os.environ:
    os.environ["SNAPSHIM_DIR"] = os.path.join(place, "table")
    os.mkdir(os.environ["SNAPSHIM_DIR"], 0o700)
started = []


def path(*names):
    return os.path.join(place, *names)


def need(*tools):
    """Ends the recipe if one of the programs is not there."""
    for tool in tools:
        if not shutil.which(tool):
            print(f"SKIPPED: {tool} is not installed")
            sys.exit(77)


def need_module(name):
    try:
        return __import__(name)
    except ImportError:
        print(f"SKIPPED: the Python module {name} is not installed")
        sys.exit(77)


def live(*command, **how):
    """Starts a program whose files will be copied, under the library."""
    program = subprocess.Popen([SNAPSHIM, "run", "--", *command], stdout=subprocess.PIPE, text=True, start_new_session=True, **how)
    started.append(program)
    return program


def python(code, *arguments):
    """A writer in Python; it says when it has begun."""
    program = live(sys.executable, "-c", code, *arguments)
    if program.stdout.readline() != "ready\n":
        sys.exit("the writer did not start")
    time.sleep(0.3)
    return program


def snapshim(*arguments):
    subprocess.run([SNAPSHIM, *arguments], check=True)


def fresh(name):
    """An empty directory."""
    shutil.rmtree(path(name), ignore_errors=True)
    os.mkdir(path(name))
    return path(name)


def stop(program):
    if program.poll() is None:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def compare(tries, ways, is_good):
    """Copies by each way, so many times, and counts the copies that are wrong. The way `snapshim cp` has to have none."""
    wrong = {name: 0 for name, _ in ways}
    for _ in range(tries):
        for name, copy in ways:
            copy(fresh("copy"))
            wrong[name] += not is_good(path("copy"))
    for name, count in wrong.items():
        print(f"{name}: {count} of {tries} copies are wrong")
    return 0 if all(count == 0 for name, count in wrong.items() if name.startswith("snapshim")) else 1


@atexit.register
def clean():
    for program in started:
        stop(program)
    shutil.rmtree(place, ignore_errors=True)
