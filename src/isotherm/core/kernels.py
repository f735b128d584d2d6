"""The switch between numba kernels and their numpy twins.

A hot loop is written twice: as a scalar loop that numba compiles, and as plain
numpy. Both give bit-identical integers; ``ISOTHERM_KERNELS=numpy`` runs the
twins and never imports numba. Modules that hold kernels are imported lazily by
the command line, so that ``--help`` pays for neither.

What makes the two agree: no fastmath, the same order of IEEE operations per
element, and no library transcendental in anything that ends as an integer.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

from isotherm.core.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

BACKEND = os.environ.get("ISOTHERM_KERNELS", "numba")
if BACKEND not in ("numba", "numpy"):
    raise UsageError(f"ISOTHERM_KERNELS: expected numba or numpy, got {BACKEND!r}")

#: ``{qualified name: (numba function, numpy twin)}``; the tests hold them equal.
TWINS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}


def compiled(function: F) -> F:
    """Compile a scalar helper that kernels call; plain Python without numba."""
    if BACKEND == "numpy":
        return function
    import numba  # noqa: PLC0415  # 0.4 s that the numpy backend must not pay

    return cast("F", numba.njit(nogil=True, cache=True, boundscheck=False)(function))


def kernel(twin: Callable[..., Any]) -> Callable[[F], F]:
    """Return a decorator that compiles a loop and registers its numpy twin.

    Args:
        twin: Takes and changes the same arrays, returns the same values.
    """

    def decorate(function: F) -> F:
        if BACKEND == "numpy":
            return cast("F", twin)
        fast = compiled(function)
        TWINS[f"{function.__module__}.{function.__qualname__}"] = (fast, twin)
        return fast

    return decorate


if BACKEND == "numba":
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    @intrinsic  # type: ignore[misc, untyped-decorator, unused-ignore]  # numba has no types
    def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
        """Ask for the cache line of ``array[index]``, to be written soon.

        Thirty-two accesses ahead of the loop this is worth 1.5 to 2.5 times
        the speed of a random read-modify-write beyond the last-level cache.
        """
        signature = types.void(array, types.intp)

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            array_type, _ = sig.args
            block = context.make_array(array_type)(context, builder, args[0])
            pointer = cgutils.get_item_pointer(
                context, builder, array_type, block, [args[1]], wraparound=False
            )
            byte_pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
            i32 = ir.IntType(32)
            function_type = ir.FunctionType(
                ir.VoidType(), [byte_pointer.type, i32, i32, i32]
            )
            function = cgutils.get_or_insert_function(
                builder.module, function_type, "llvm.prefetch.p0"
            )
            builder.call(function, [byte_pointer, i32(1), i32(3), i32(1)])
            return context.get_dummy_value()

        return signature, generate

else:

    def prefetch(array: Any, index: Any) -> None:
        """Do nothing: only compiled loops prefetch."""
