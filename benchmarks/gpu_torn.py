"""Readers against a mover that never rests: is any page ever seen torn?

    .venv-gpu/bin/python benchmarks/gpu_torn.py [--rules safe|no-grace|publish-first]

Pages of 4 KiB whose words all are the page's stamp are promoted and sent back at
random, four streams read them, and every word of every read is compared on the device.
A fifth stream writes pages of its own, one version more each time, and reads them
back. With ``no-grace`` and ``publish-first`` a rule of the protocol is taken away: then
something must be seen, or the test proves nothing. Without CUDA the numpy device runs
its kernels in small steps of a random order, with pages of 128 bytes.

Prints one line of JSON. Exit code 1 where ``safe`` saw anything wrong.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from gpu_data import Rig, Scale, mixed
from isotherm.gpu import numpy_backend
from isotherm.gpu.backend import Geometry
from isotherm.gpu.mover import Mover
from isotherm.gpu.protocol import HOST, Rules, Slot, SlotProtocol
from isotherm.gpu.stepping import Stepper
from isotherm.gpu.thrash import ThrashGuard

RULES = {
    "safe": Rules(),
    "no-grace": Rules(grace=False),
    "publish-first": Rules(publish_last=False),
}
READERS = 4

#: Rounds of the stepped run, so many for a second that is asked for: the same seed
#: then sees the same on any machine.
ROUNDS_PER_S = 8000


class Stress:
    """One run.

    Args:
        rig: The device.
        rules: Of the protocol.
        seed: For everything random.
        deposits: Pages come by deposits, not by copies.
    """

    def __init__(self, rig: Rig, rules: Rules, seed: int, *, deposits: bool) -> None:
        self.rig = rig
        self.random = np.random.default_rng(seed)
        self.stepper = None if rig.cuda else Stepper()
        words, self.readable, self.writable, slots = (
            (1024, 256, 64, 128) if rig.cuda else (32, 40, 12, 16)
        )
        pages = self.readable + self.writable
        self.geometry = Geometry(pages, words, "int32", 1, slots)
        self.host = np.empty((pages, words * 4), np.uint8)
        self.stamp = mixed(np.arange(pages)).astype(np.int32)
        self.host.view(np.int32)[:] = self.stamp[:, None]
        self.device: Any
        if rig.cuda:
            from isotherm.gpu import triton_backend  # noqa: PLC0415  # optional

            self.device = triton_backend.create(
                self.geometry, self.host, device=rig.device
            )
            self._slow_down()
        else:
            self.device = numpy_backend.create(
                self.geometry, self.host, stepper=self.stepper
            )
        protocol = SlotProtocol(
            pages,
            slots,
            writable=True,
            deposits=deposits,
            rules=rules,
            guard=ThrashGuard(returns=1 << 30),
        )
        self.mover = Mover(self.device, protocol)
        self.protocol = protocol
        self.reads = self.torn = self.lost = self.writes = 0
        self.version = np.zeros(self.writable, np.int32)

    def _slow_down(self) -> None:
        """Let the mover's stream sleep now and then after a copy."""
        torch, copy_in = self.rig.torch, self.device.copy_in

        def slowly(page: Any, slot: Any) -> Any:
            pending = copy_in(page, slot)
            with torch.cuda.stream(self.rig.device.mover):
                torch.cuda._sleep(int(self.random.integers(1, 200_000)))  # noqa: SLF001
            return pending

        self.device.copy_in = slowly

    def churn(self) -> None:
        """Send some pages in and some out, whatever they are worth.

        No more than the mover gets to: pages that are called back while they wait
        for a slot never move at all.
        """
        p = self.protocol
        live = np.flatnonzero(p.state == Slot.LIVE)
        page = np.flatnonzero((p.place == HOST) & (p.slot_of < 0)).astype(np.uint32)
        some = len(p.state) // 8
        if p.placed - len(live) < some:
            self.mover.promote(self.random.permutation(page)[:some])
        if len(live) > len(p.state) // 2:
            page = p.owner[self.random.permutation(live)[:some]].astype(np.uint32)
            self.mover.demote(page)
        self.mover.pump()

    def _read(self, index: Any, out: Any) -> Any:
        """Launch a gather."""
        return self.mover.launch(lambda l: self.device.gather(index, out, l))

    def _write(self, index: Any, values: Any) -> None:
        """Launch a scatter."""
        self.mover.launch(lambda l: self.device.scatter(index, values, l), writes=True)

    # -- CUDA --------------------------------------------------------------------

    def run_cuda(self, seconds: float) -> None:
        """Keep four readers and a writer busy for a while."""
        torch = self.rig.torch
        streams = [torch.cuda.Stream() for _ in range(READERS)]
        writer = torch.cuda.Stream()
        size = 1 << 14
        stamp = self.rig.array(self.stamp)
        outs = [self.device.empty((size, self.geometry.row_dim)) for _ in streams]
        torn = [torch.zeros((), dtype=torch.int64, device="cuda") for _ in streams]
        lost = torch.zeros((), dtype=torch.int64, device="cuda")
        own = self.rig.array(np.arange(self.readable, len(self.stamp), dtype=np.int32))
        values = (
            stamp[self.readable :, None].expand(-1, self.geometry.row_dim).contiguous()
        )
        back = torch.empty_like(values)
        self.rig.synchronise()
        events: list[list[Any]] = [[] for _ in streams]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for stream, out, wrong, queue in zip(
                streams, outs, torn, events, strict=True
            ):
                if len(queue) > 2 and not queue[-3].query():
                    continue
                with torch.cuda.stream(stream):
                    index = torch.randint(
                        0, self.readable, (size,), dtype=torch.int32, device="cuda"
                    )
                    out.fill_(-1)
                    self._read(index, out)
                    wrong.add_((out != stamp[index.long()][:, None]).any(1).sum())
                    queue.append(stream.record_event())
                self.reads += size
            with torch.cuda.stream(writer):
                values += 1
                self._write(own, values)
                self._read(own, back)
                lost.add_((back != values).any(1).sum())
                self.writes += self.writable
                writer.synchronize()
            self.churn()
        self.rig.synchronise()
        self.torn = sum(int(t) for t in torn)
        self.lost = int(lost)

    # -- steps -------------------------------------------------------------------

    def run_steps(self, seconds: float) -> None:
        """Run readers, a writer and the mover in small steps of a random order."""
        stepper = self.stepper
        if stepper is None:
            raise TypeError("steps: for the numpy device alone")
        under_way: list[tuple[Any, Any, Any, bool]] = []
        writing: Any = None
        for _ in range(int(seconds * ROUNDS_PER_S)):
            if len(under_way) < READERS:
                index = self.random.integers(0, self.readable, 4)
                out = np.full((4, self.geometry.row_dim), -1, np.int32)
                self.device.stream = 2 + int(self.random.integers(READERS))
                task = self._read(index, out)
                under_way.append((task, index, out, False))
            if writing is None and self.random.random() < 0.1:
                writing = self._write_some()
            hurry = self.random.choice([0.0, 0.9])  # of the mover, whose lane is 0
            for _ in range(int(self.random.integers(1, 8))):
                lanes = stepper.lanes()
                if 0 in lanes and self.random.random() < hurry:
                    stepper.step(0)
                elif lanes:
                    stepper.step(int(self.random.choice(lanes)))
            left = []
            for task, index, out, own in under_way:
                if task.done():
                    self.reads += len(index)
                    self.torn += int((out != self.stamp[index][:, None]).any(1).sum())
                else:
                    left.append((task, index, out, own))
            under_way = left
            if writing is not None and writing[0].done():
                _, index, out = writing
                expected = self.stamp[index] + self.version[index - self.readable]
                self.lost += int((out != expected[:, None]).any(1).sum())
                writing = None
            self.churn()

    def _write_some(self) -> tuple[Any, Any, Any]:
        """Write pages, one version more, and read them back in the same lane."""
        index = self.readable + self.random.choice(self.writable, 3, replace=False)
        self.version[index - self.readable] += 1
        words = self.stamp[index] + self.version[index - self.readable]
        values = np.repeat(words[:, None], self.geometry.row_dim, 1).astype(np.int32)
        self.device.stream = 1
        self._write(index, values)
        self.writes += len(index)
        out = np.full_like(values, -1)
        return self._read(index, out), index, out


def main() -> int:
    """Run once and tell."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rules", choices=RULES, default="safe")
    parser.add_argument("--backend", default="numpy", choices=("numpy", "triton"))
    parser.add_argument("--deposits", action="store_true")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rig = Rig(args.backend, Scale())
    if args.backend != "numpy" and not rig.cuda:
        rig = Rig("numpy", Scale())
    stress = Stress(rig, RULES[args.rules], args.seed, deposits=args.deposits)
    (stress.run_cuda if rig.cuda else stress.run_steps)(args.seconds)
    print(
        json.dumps(
            {
                "rules": args.rules,
                "deposits": args.deposits,
                "device": rig.where,
                "zero_copy": stress.device.zero_copy,
                "reads": stress.reads,
                "writes": stress.writes,
                "arrived": stress.protocol.totals.copied
                + stress.protocol.totals.deposited,
                "left": stress.protocol.totals.left,
                "torn": stress.torn,
                "lost": stress.lost,
            }
        )
    )
    return int(args.rules == "safe" and stress.torn + stress.lost > 0)


if __name__ == "__main__":
    sys.exit(main())
