"""What the inner loops are made of: vectors and tiles of the processor's registers, as LLVM operations.

A tile is ROWS rows of one vector of LANES numbers, held in eight vector registers while a loop runs. LLVM
splits a vector that the processor does not have, so the code is right on every processor, and fast where
the constants below fit it.
"""

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

FUSED = ("contract",)


def vector_bytes(features: str) -> int:
    """Bytes of a vector register, from LLVM's list of a processor's features."""
    has = features.split(",")
    return 64 if "+avx512f" in has else 32 if "+avx2" in has else 16


def tile_shape(itemsize: int, register: int) -> tuple[int, int]:
    """Rows and lanes of a tile that fills eight registers: one a row, or two where they are short."""
    lanes = register // itemsize
    return (8, lanes) if lanes >= 8 else (4, 2 * lanes)


REGISTER = vector_bytes(get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES)
"""Of the processor that numba compiles for; part of what its cache is keyed by."""


def shape_of(dtype) -> tuple[int, int]:
    """Rows and lanes of the tiles of a type on this processor."""
    return tile_shape(np.dtype(dtype).itemsize, REGISTER)


@intrinsic
def lanes(typingctx, array):
    """Lanes of the tiles of an array's type: what the width of a padded array is a multiple of."""
    number = shape_of(str(array.dtype))[1]
    return types.intp(array), lambda context, *_: context.get_constant(types.intp, number)


@intrinsic
def tile_rows(typingctx, array):
    """Rows of the tiles of an array's type; divides `lanes`."""
    number = shape_of(str(array.dtype))[0]
    return types.intp(array), lambda context, *_: context.get_constant(types.intp, number)


class Matrix:
    """A C-ordered array inside the code being built: addresses of its elements, loads and stores."""

    def __init__(self, context, builder, kind, value, square=False):
        array = context.make_array(kind)(context, builder, value)
        self.context, self.builder, self.data = context, builder, array.data
        self.align = kind.dtype.bitwidth // 8
        strides = cgutils.unpack_tuple(builder, array.strides)
        self.stride = builder.sdiv(strides[0], self.constant(self.align))
        self.element = context.get_data_type(kind.dtype)
        self.rows, self.lanes = shape_of(str(kind.dtype))
        if square:
            self.lanes = self.rows
        self.vector = ir.VectorType(self.element, self.lanes)

    def constant(self, number: int):
        return self.context.get_constant(types.intp, number)

    def at(self, row, column):
        return self.builder.gep(self.data, [self.builder.add(self.builder.mul(row, self.stride), column)])

    def below(self, address, rows):
        return self.builder.gep(address, [self.builder.mul(self.stride, rows)])

    def load(self, address, vector=None):
        pointer = self.builder.bitcast(address, (vector or self.vector).as_pointer())
        return self.builder.load(pointer, align=self.align)

    def store(self, value, address) -> None:
        pointer = self.builder.bitcast(address, value.type.as_pointer())
        self.builder.store(value, pointer, align=self.align)

    def splat(self, scalar):
        """A vector that holds the scalar in every lane."""
        empty = ir.Constant(self.vector, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        first = self.builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(first, empty, zeros)

    def scalars(self, address):
        """The ROWS numbers from an address on, each as a vector."""
        for m in range(self.rows):
            yield self.splat(self.builder.load(self.builder.gep(address, [self.constant(m)])))

    def registers(self, values) -> list:
        """Variables that LLVM keeps in registers."""
        slots = []
        for value in values:
            slot = cgutils.alloca_once(self.builder, self.vector)
            self.builder.store(value, slot)
            slots.append(slot)
        return slots

    def accumulate(self, slots, left, right, combine: Callable) -> None:
        """slots[m] ± left[m] · right for every row of the tile."""
        for slot, scalar in zip(slots, self.scalars(left), strict=True):
            product = self.builder.fmul(scalar, right, flags=FUSED)
            self.builder.store(combine(self.builder.load(slot), product, flags=FUSED), slot)
