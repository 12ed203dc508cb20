"""safetensors.numpy, written in place and by its own save_file; see saving_common."""

import sys

import numpy
import safetensors
from safetensors import numpy as tensors

from saving_common import main


class Lazy:
    """Reads the tensor out of the mapping each time it is looked at."""

    def __init__(self, path):
        self.file = safetensors.safe_open(path, "numpy")

    def __array__(self, dtype=None, copy=None):
        return self.file.get_tensor("numbers")

    def __getitem__(self, key):
        return self.__array__()[key]

    def __add__(self, other):
        return self.__array__() + other


def named(numbers):
    return {"numbers": numpy.ascontiguousarray(numbers)}


def in_place(path, numbers):
    """As whoever writes the bytes himself, and as save_file did in earlier versions."""
    with open(path, "wb") as file:
        file.write(tensors.save(named(numbers)))


def by_renaming(path, numbers):
    tensors.save_file(named(numbers), path)


def read(path):
    with open(path, "rb") as file:
        return tensors.load(file.read())["numbers"]


main({"private": Lazy, "renamed": Lazy}, by_renaming if sys.argv[1] == "renamed" else in_place, read)
