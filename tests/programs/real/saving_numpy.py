"""numpy.load with mmap_mode, numpy.save; see saving_common."""

import numpy

from saving_common import main


def mapped(mode):
    return lambda path: numpy.load(path, mmap_mode=mode)


def save(path, numbers):
    # Through a file object, so that numpy appends no suffix to the name.
    with open(path, "wb") as file:
        numpy.save(file, numbers)


main({"private": mapped("c"), "shared": mapped("r")}, save, numpy.load)
