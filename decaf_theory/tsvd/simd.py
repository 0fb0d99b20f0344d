"""LANES float64 numbers as one value, in functions that Numba compiles; LANES is 16 or 8.

Numba leaves it to LLVM to find the loops that may become vector instructions, and of loops over so
few it finds none. Here a vector is a type of its own. It takes +, -, *, /, abs and comparisons,
with vectors and with single numbers; a comparison gives a mask, for & and `select`.

    A = vectors(numbers)        # [n, n, LANES] seen as a matrix [n, n], in the same memory
    A[i, j] -= A[i, k] * A[j, k]
    root = sqrt(select(x > 0.0, x, 1.0))

A product and a sum may be fused; nothing is reordered, so that a lane does not depend on another.
"""
# mypy: disable-error-code="import-not-found,import-untyped,unused-ignore,misc"
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import operator

import numba
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils, types
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, models, overload, register_model
from numba.np.arrayobj import make_array, populate_array

# two registers, of AVX-512 or AVX2: while one waits for a root or a quotient, the other works
LANES = 16 if get_host_cpu_features().get("avx512f") else 8
compiled = numba.njit(error_model="numpy", nogil=True)  # a division by zero gives inf


class Kind(types.Type):
    """A type of LANES numbers or truth values."""

    def __init__(self, name, scalar):  # noqa: D107
        self.llvm = ir.VectorType(scalar, LANES)
        super().__init__(name)


VECTOR, MASK = Kind("vector", ir.DoubleType()), Kind("mask", ir.IntType(1))
NARROW = Kind("narrow", ir.FloatType())  # LANES float32 numbers, for +, -, *, / among themselves


@register_model(Kind)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, kind.llvm)


@intrinsic
def vectors(_, numbers):
    """Return a contiguous float64 array [..., LANES] as an array [...] of vectors."""
    kind = types.Array(VECTOR, numbers.ndim - 1, "C", aligned=False)

    def emit(context, builder, signature, arguments):
        old = make_array(numbers)(context, builder, arguments[0])
        new = make_array(kind)(context, builder)
        shape, strides = (cgutils.unpack_tuple(builder, x)[:-1] for x in (old.shape, old.strides))
        data = builder.bitcast(old.data, VECTOR.llvm.as_pointer())
        size = context.get_constant(types.intp, 8 * LANES)
        populate_array(new, data, shape, strides, size, old.meminfo, old.parent)
        return impl_ret_borrowed(context, builder, kind, new._getvalue())

    return kind(numbers), emit


def _filled(kind, scalar):
    """Return a function that makes a vector of equal numbers."""

    @intrinsic
    def filled(_, number):
        def emit(context, builder, signature, arguments):
            index = ir.IntType(32)
            x = context.cast(builder, arguments[0], number, scalar)
            one = builder.insert_element(ir.Constant(kind.llvm, ir.Undefined), x, index(0))
            return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(index, LANES), None))

        return kind(number), emit

    return filled


full, narrow = _filled(VECTOR, types.float64), _filled(NARROW, types.float32)


def _instruction(emit, kind=None):
    """Return a function of two vectors or masks that is one instruction, emit(builder, a, b).

    Its result is of the kind of a if no other is named.
    """

    @intrinsic
    def of_two(_, a, b):
        result = kind or a
        return result(a, b), lambda context, builder, signature, values: emit(builder, *values)

    return of_two


def _operator(name, of_two):
    """Let vectors have an operator, by a function of two; float64 ones with numbers, too."""

    def chosen(a, b):
        if a is b and a in (VECTOR, NARROW):
            return lambda a, b: of_two(a, b)
        if a is VECTOR and isinstance(b, types.Number):
            return lambda a, b: of_two(a, full(b))
        if b is VECTOR and isinstance(a, types.Number):
            return lambda a, b: of_two(full(a), b)
        return None

    overload(getattr(operator, name))(chosen)


def _arithmetic(name):
    return lambda builder, a, b: getattr(builder, name)(a, b, flags=("contract",))


def _comparison(sign):
    return lambda builder, a, b: builder.fcmp_ordered(sign, a, b)


for _name, _emit in (("add", "fadd"), ("sub", "fsub"), ("mul", "fmul"), ("truediv", "fdiv")):
    for _place in ("", "i"):  # x + y and x += y
        _operator(_place + _name, _instruction(_arithmetic(_emit)))
for _name, _sign in (("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="), ("eq", "==")):
    _operator(_name, _instruction(_comparison(_sign), MASK))
_both = _instruction(lambda builder, a, b: builder.and_(a, b))


@overload(operator.and_)
@overload(operator.iand)
def _and(a, b):
    return (lambda a, b: _both(a, b)) if a is MASK and b is MASK else None


@overload(operator.neg)
def _negative(x):
    return (lambda x: full(-0.0) - x) if x is VECTOR else None


@intrinsic
def _selected(_, mask, a, b):
    return VECTOR(mask, a, b), lambda context, builder, signature, values: builder.select(*values)


@compiled
def select(mask, a, b):
    """Return a where the mask is true, else b: vectors or numbers."""
    return _selected(mask, lifted(a), lifted(b))


def lifted(x):
    """Return a number as a vector, and a vector as it is."""


@overload(lifted)
def _lifted(x):
    return (lambda x: x) if x is VECTOR else (lambda x: full(x))


def _function(name, kind):
    """Return LLVM's function of one vector."""

    @intrinsic
    def of_one(_, x):
        def emit(context, builder, signature, values):
            types_ = ir.FunctionType(context.get_value_type(kind), [VECTOR.llvm])
            full_name = f"llvm.{name}.v{LANES}f64"
            return builder.call(
                cgutils.get_or_insert_function(builder.module, types_, full_name), values
            )

        return kind(x), emit

    return of_one


sqrt, _absolute = _function("sqrt", VECTOR), _function("fabs", VECTOR)
least = _function("vector.reduce.fmin", types.float64)
largest = _function("vector.reduce.fmax", types.float64)


@overload(abs)
def _abs(x):
    return (lambda x: _absolute(x)) if x is VECTOR else None


def _pointer(context, builder, X, matrix, i, j):
    """Return where LANES numbers of a contiguous float32 matrix begin, at X[i, j]."""
    array = make_array(X)(context, builder, matrix)
    columns = cgutils.unpack_tuple(builder, array.shape)[1]
    place = builder.gep(array.data, [builder.add(builder.mul(i, columns), j)])
    return builder.bitcast(place, NARROW.llvm.as_pointer())


@intrinsic
def loaded(_, X, i, j):
    """Return X[i, j : j + LANES] of a contiguous float32 matrix."""

    def emit(context, builder, signature, values):
        return builder.load(_pointer(context, builder, X, *values), align=4)

    return NARROW(X, i, j), emit


@intrinsic
def store(_, x, X, i, j):
    """Put x into X[i, j : j + LANES] of a contiguous float32 matrix."""

    def emit(context, builder, signature, values):
        x, *where = values
        builder.store(x, _pointer(context, builder, X, *where), align=4)
        return context.get_dummy_value()

    return types.none(x, X, i, j), emit


@intrinsic
def widened(_, x):
    """Return float32 numbers as float64 ones."""
    return VECTOR(x), lambda context, builder, signature, values: builder.fpext(
        values[0], VECTOR.llvm
    )


@intrinsic
def total(_, x):
    """Return the sum of a vector, by halves."""

    def emit(context, builder, signature, values):
        double = ir.DoubleType()
        name = f"llvm.vector.reduce.fadd.v{LANES}f64"
        add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(double, [double, VECTOR.llvm]), name
        )
        return builder.call(add, [double(0.0), *values], fastmath=("reassoc",))

    return types.float64(x), emit
