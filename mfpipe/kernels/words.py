"""Eight bytes of a text at a time, from and to any address."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from mfpipe.kernels import part

ONES = np.uint64(0x0101010101010101)
"""A one in each byte; times b, the byte b in each."""
HIGHS = np.uint64(0x8080808080808080)
"""The top bit of each byte."""


def _address(context, builder, kind, value, at):
    data = context.make_array(kind)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [at]), ir.IntType(64).as_pointer())


@intrinsic
def word(typingctx, data, at):
    """The eight bytes from a position of a uint8 array, the first of them as the lowest."""

    def build(context, builder, signature, arguments):
        loaded = builder.load(_address(context, builder, signature.args[0], *arguments))
        loaded.align = 1
        return loaded if _little_endian(builder) else builder.bswap(loaded)

    return types.uint64(data, types.intp), build


@intrinsic
def put_word(typingctx, data, at, value):
    """Store eight bytes at a position of a uint8 array, the lowest first."""

    def build(context, builder, signature, arguments):
        array, position, value = arguments
        value = value if _little_endian(builder) else builder.bswap(value)
        builder.store(value, _address(context, builder, signature.args[0], array, position)).align = 1

    return types.void(data, types.intp, types.uint64), build


def _little_endian(builder) -> bool:
    return not builder.module.data_layout.startswith("E")


@intrinsic
def _trailing_zeros(typingctx, value):
    def build(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), build


@part
def first_byte(marks):
    """Position, 0 to 7, of the lowest byte whose top bit is set in a word that has one."""
    return np.intp(_trailing_zeros(marks) >> np.uint64(3))


@part
def zero_bytes(value):
    """The top bit of each byte that is zero; right up to the first such (Warren, Hacker's Delight, 6-1)."""
    return (value - ONES) & ~value & HIGHS


@part
def low_bytes(value, limit):
    """The top bit of each byte under a limit of at most 128; right up to the first of them."""
    return (value - ONES * limit) & ~value & HIGHS


@part
def first_bytes(value, length):
    """The word with all but its first `length` bytes, 0 to 7, made zero."""
    return value & ((np.uint64(1) << np.uint64(8 * length)) - np.uint64(1))
