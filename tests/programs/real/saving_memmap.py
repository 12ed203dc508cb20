"""numpy.memmap of raw numbers, tofile; see saving_common."""

import numpy

from saving_common import main


def mapped(mode):
    return lambda path: numpy.memmap(path, dtype="i8", mode=mode)


def save(path, numbers):
    numpy.asarray(numbers).tofile(path)


main({"private": mapped("c"), "shared": mapped("r")}, save, lambda path: numpy.fromfile(path, dtype="i8"))
