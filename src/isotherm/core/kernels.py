"""The switch between numba kernels and their numpy twins.

A hot loop is written twice: as a scalar loop that numba compiles, and as plain
numpy. Both give bit-identical integers; ``ISOTHERM_KERNELS=numpy`` runs the
twins and never imports numba, and so does an installation without numba. Modules
that hold kernels are imported lazily by the command line, so that ``--help`` pays
for neither.

What makes the two agree: no fastmath, the same order of IEEE operations per
element, and no library transcendental in anything that ends as an integer.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from isotherm.core.compiling import COMPILING
from isotherm.core.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

BACKEND = os.environ.get("ISOTHERM_KERNELS") or (
    "numba" if importlib.util.find_spec("numba") else "numpy"
)
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


def is_first_start() -> bool:
    """Return whether no kernel imported so far has ever been compiled here."""
    return bool(TWINS) and not any(_is_kept(fast) for fast, _ in TWINS.values())


def _is_kept(function: Any) -> bool:  # a dispatcher of numba
    """Return whether numba's cache has an index of a function."""
    source = function.py_func
    name = f"{Path(source.__code__.co_filename).stem}.{source.__qualname__}-*.nbi"
    return any(Path(function.stats.cache_path).glob(name))


if BACKEND == "numba":
    from llvmlite import ir
    from numba.core import cgutils, event, types
    from numba.extending import intrinsic

    class _Listener(event.Listener):  # type: ignore[misc, unused-ignore]  # as below
        """Hears when numba compiles; what it finds on disk is not compiled."""

        def on_start(self, event: Any) -> None:
            COMPILING.begin()

        def on_end(self, event: Any) -> None:
            COMPILING.end()

    event.register("numba:compile", _Listener())

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
