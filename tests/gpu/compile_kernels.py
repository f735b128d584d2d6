"""Compile every kernel for sm_90, without a GPU; print PTX and resources as JSON.

Run in a process of its own: the tests around it run Triton's interpreter, and which
of the two it is, is settled when triton is imported first.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from isotherm.gpu import triton_kernels, triton_mover

POINTERS = {
    "out": "*i32", "slots": "*i32", "host": "*i32", "values": "*i32", "src": "*i32",
    "dst": "*i32", "stats": "*i64", "taken": "*i64", "dirty": "*u8", "keep": "*u8",
    "weights": "*fp32",
}  # fmt: skip
NUMBERS = ("n", "rows", "epoch", "salt", "capacity", "bags")

#: Rows of 512 bytes, one a page: 128 words.
ROW = {"RPP": 1, "RW": 128, "PW": 128, "OW": 128}
#: Rows of 64 bytes, two a page.
HALF = {"RPP": 2, "RW": 16, "PW": 32, "OW": 16}
#: Rows of 656 bytes (a KV row of sparse attention), pages of 768.
ODD = {"RPP": 1, "RW": 164, "PW": 192, "OW": 164}
#: Blocks of 64 KiB.
BLOCK = {"RPP": 1, "RW": 16384, "PW": 16384, "OW": 16384}

#: As many rows as threads.
NARROW = {"BLOCK_R": 128, "BLOCK_W": 32}
WIDE = {"BLOCK_R": 4, "BLOCK_W": 1024}
READ = {"HIT_SHIFT": 4, "COUNT": True, "DEPOSIT": True}
LOOK = {"RPP": 1, **READ, "BLOCK_R": 128}
BAG = {"RPP": 1, "RE": 128, "PE": 128, "BLOCK_B": 8, "BLOCK_E": 128, "MEAN": True}
BAG |= {"WEIGHTED": True, "WIDE": False, "BY_BITS": False, "DEPOSIT": True}
COPY = {"PW": 128, "BLOCK_R": 32, "BLOCK_W": 128}
SCATTER = {"RPP": 1, "RW": 128, **COPY}
LIST = ROW | {"DEPOSIT": True, "BLOCK_R": 32, "BLOCK_W": 128}
HALVES = {"out": "*fp16", "slots": "*fp16", "host": "*fp16"}
BFLOATS = {"out": "*bf16", "slots": "*bf16", "host": "*bf16"}
FLOATS = {"out": "*fp32", "slots": "*fp32", "host": "*fp32"}

#: Name of the case: kernel, constants, types other than the usual ones.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "gather": ("gather", ROW | READ | NARROW, {}),
    "gather_64": ("gather", HALF | READ | NARROW, {}),
    "gather_656": ("gather", ODD | READ | NARROW, {}),
    "gather_bare": ("gather", ROW | NARROW | dict.fromkeys(READ, 0), {}),
    "gather_long": ("gather", ROW | READ | NARROW, {"index": "*i64", "rows": "i64"}),
    "look": ("look", LOOK | {"SPLIT": False}, {}),
    "look_split": ("look", LOOK | {"SPLIT": True}, {}),
    "gather_placed": ("gather_placed", BLOCK | WIDE | {"DEPOSIT": True}, {}),
    "gather_list": ("gather_list", LIST, {}),
    "gather_list_sorted": ("gather_list", LIST, {"order": "*i64"}),
    "gather_bag": ("gather_bag", BAG, FLOATS),
    "gather_bag_fp16": ("gather_bag", BAG, HALVES),
    "gather_bag_bf16": ("gather_bag", BAG, BFLOATS),
    "scatter": ("scatter", SCATTER, {}),
    "copy_pages": ("copy_pages", COPY, {}),
    "prepare_want": ("prepare", {"CHECK": False, "VERSIONS": True, "BLOCK": 128}, {}),
    "prepare_commit": ("prepare", {"CHECK": True, "VERSIONS": True, "BLOCK": 128}, {}),
    "publish": ("publish", {"WANT": False, "BLOCK": 128}, {}),
    "publish_want": ("publish", {"WANT": True, "BLOCK": 128}, {}),
    "unpublish": ("unpublish", {"BLOCK": 128}, {}),
    "drain": ("drain", {"BLOCK": 1024}, {}),
    "take": ("take", {"BLOCK": 512}, {}),
}


def compile_case(name: str) -> dict[str, Any]:
    """Return PTX, registers and spilled bytes of one case."""
    kernel, constants, types = CASES[name]
    function = getattr(triton_kernels, kernel, None) or getattr(triton_mover, kernel)
    signature = {}
    for argument in function.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in NUMBERS:
            signature[argument] = types.get(argument, "i32")
        else:
            signature[argument] = types.get(argument, POINTERS.get(argument, "*i32"))
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, argument in enumerate(function.arg_names)
        if signature[argument].startswith("*")
    }
    source = ASTSource(function, signature, constants, aligned)
    options = {"num_warps": 4, "enable_fp_fusion": kernel != "gather_bag"}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    return {"ptx": made.asm["ptx"], **resources(made.asm["cubin"])}


def resources(cubin: bytes) -> dict[str, int]:
    """Return registers and bytes of stack a thread, as the assembler chose them."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        return {}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [str(tool), "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    found = dict(re.findall(r"(REG|STACK|SHARED):(\d+)", said))
    return {key.lower(): int(value) for key, value in found.items()}


if __name__ == "__main__":
    json.dump({name: compile_case(name) for name in CASES}, sys.stdout)
