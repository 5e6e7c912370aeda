"""Vectors of float32 for compiled loops: a numba type for one register of the processor.

LLVM may vectorize a loop, and chooses the order of its sums anew for each loop. With this type, the
loop itself defines the vectors. So the operations and their order are the same wherever a function
is inlined, and so are the bits. With AVX-512, vectors are twice as wide as LLVM would choose.

    for i in range(0, n, LANES):
        store(out, (k, i), fma(splat(a), load(x, (k, i)), load(y, (k, i))))

Plain loops took 1.5 times as long. Indices are neither checked nor wrapped, so a vector must not
extend beyond the end of an array. ``aligned_zeros`` of :mod:`.kernels` makes arrays that start at a
cache line. If the length of their lines is a multiple of ``LANES``, each line starts at a cache
line as well.
"""

import operator
import platform

import llvmlite.binding
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, config
from numba.extending import intrinsic, models, overload, register_model


def _has(feature):
    """Return whether the processor that numba compiles for has a feature."""
    if config.CPU_FEATURES is not None:
        return f"+{feature}" in config.CPU_FEATURES.split(",")
    return bool(llvmlite.binding.get_host_cpu_features().get(feature))


def jit(function):
    """Compile a function that releases the GIL."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        # numba has no folder for the compiled code, so compile in every process.
        return njit(**options)(function)


LANES = 16 if _has("avx512f") else 8
# Without such an instruction, LLVM calls a function for every number. ARM always has one.
_FUSES = platform.machine() not in ("x86_64", "AMD64") or _has("fma")

_INDEX = ir.IntType(32)
_INTEGERS = ir.VectorType(_INDEX, LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)


class Lanes(types.Type):
    """The type of a vector of ``LANES`` numbers."""

    def __init__(self):
        super().__init__(name=f"float32x{LANES}")


lanes = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _FLOATS)


def _index_type(index):
    return types.UniTuple(types.intp, len(index))


def _pointer(context, builder, array_type, array, index):
    struct = context.make_array(array_type)(context, builder, array)
    indices = cgutils.unpack_tuple(builder, index)
    pointer = cgutils.get_item_pointer(
        context, builder, array_type, struct, indices, wraparound=False
    )
    return builder.bitcast(pointer, _FLOATS.as_pointer())


@intrinsic
def load(typing_context, array, index):
    """Read ``LANES`` numbers of an array's last axis from ``index`` on, a tuple."""

    def build(context, builder, signature, arguments):
        return builder.load(_pointer(context, builder, signature.args[0], *arguments), align=4)

    return lanes(array, _index_type(index)), build


@intrinsic
def store(typing_context, array, index, value):
    """Write ``LANES`` numbers to an array's last axis from ``index`` on, a tuple."""

    def build(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], pointer, align=4)
        return context.get_dummy_value()

    return types.none(array, _index_type(index), lanes), build


def _repeat(number):
    """Return the vector of integers that repeats a constant."""
    return ir.Constant(_INTEGERS, [number] * LANES)


@intrinsic
def splat(typing_context, value):
    """Repeat one float32."""

    def build(context, builder, signature, arguments):
        undefined = ir.Constant(_FLOATS, ir.Undefined)
        first = builder.insert_element(undefined, arguments[0], ir.Constant(_INDEX, 0))
        return builder.shuffle_vector(first, undefined, _repeat(0))

    return lanes(types.float32), build


@intrinsic
def total(typing_context, vector):
    """Sum the numbers of a vector by repeated halving."""

    def build(context, builder, signature, arguments):
        (value,), width = arguments, LANES
        while width > 1:
            width //= 2
            half = ir.VectorType(_INDEX, width)
            halves = [
                builder.shuffle_vector(value, value, ir.Constant(half, [*range(k, k + width)]))
                for k in (0, width)
            ]
            value = builder.fadd(*halves)
        return builder.extract_element(value, ir.Constant(_INDEX, 0))

    return types.float32(lanes), build


@intrinsic
def power_of_two(typing_context, exponent):
    """Return 2 to integer exponents above -127, written into the bits of a float."""

    def build(context, builder, signature, arguments):
        biased = builder.add(builder.fptosi(arguments[0], _INTEGERS), _repeat(127))
        return builder.bitcast(builder.shl(biased, _repeat(23)), _FLOATS)

    return lanes(lanes), build


@intrinsic
def where_positive(typing_context, test, value, other):
    """Return ``value`` where ``test`` > 0, and ``other`` elsewhere."""

    def build(context, builder, signature, arguments):
        zero = ir.Constant(_FLOATS, [0.0] * LANES)
        return builder.select(builder.fcmp_ordered(">", arguments[0], zero), *arguments[1:])

    return lanes(lanes, lanes, lanes), build


def _call(builder, name, arguments):
    """Call LLVM's vector function of this name."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * len(arguments))
    full_name = f"llvm.{name}.v{LANES}f32"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, full_name), arguments)


@intrinsic
def fma(typing_context, a, b, c):
    """Return a * b + c, with a single rounding if the processor supports it."""

    def build(context, builder, signature, arguments):
        if _FUSES:
            return _call(builder, "fma", arguments)
        return builder.fadd(builder.fmul(*arguments[:2]), arguments[2])

    return lanes(lanes, lanes, lanes), build


def _unary(name):
    @intrinsic
    def function(typing_context, vector):
        def build(context, builder, signature, arguments):
            return _call(builder, name, arguments)

        return lanes(lanes), build

    return function


magnitude = _unary("fabs")
floor = _unary("floor")
root = _unary("sqrt")


def _define(symbol, instruction):
    @intrinsic
    def function(typing_context, a, b):
        def build(context, builder, signature, arguments):
            return getattr(builder, instruction)(*arguments)

        return lanes(lanes, lanes), build

    @overload(symbol)
    def operation(a, b):
        if a is lanes and b is lanes:
            return lambda a, b: function(a, b)
        return None


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")
