"""The steps of train.py without PyTorch, for machines where it cannot be installed: ranks meet over sockets, agree on
each step, checkpoint and resume. Nothing is learnt; it shows that launch, order, signals and checkpoints work.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import time
from pathlib import Path

import checkpoints

stop_wished = False


def wish_stop(number: int, frame: object) -> None:
    global stop_wished
    stop_wished = True


class Star:
    """All ranks in a star around rank 0. `gather` is also the barrier."""

    def __init__(self, rank: int, size: int, address: tuple[str, int]) -> None:
        self.rank = rank
        self._peers = {}
        if rank == 0:
            with socket.create_server(address, backlog=size) as server:
                for _ in range(size - 1):
                    peer = server.accept()[0].makefile("rw")
                    self._peers[int(peer.readline())] = peer
        else:
            self._peers[0] = self._connect(address).makefile("rw")
            self._send(0, rank)

    @staticmethod
    def _connect(address: tuple[str, int]) -> socket.socket:
        deadline = time.monotonic() + 60
        while True:
            try:
                return socket.create_connection(address)
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _send(self, rank: int, value: object) -> None:
        self._peers[rank].write(json.dumps(value) + "\n")
        self._peers[rank].flush()

    def gather(self, value: object) -> list:
        """Everybody's value, in rank order, for everybody."""
        if self.rank:
            self._send(0, value)
            return json.loads(self._peers[0].readline())
        values = [value, *(json.loads(self._peers[rank].readline()) for rank in sorted(self._peers))]
        for rank in self._peers:
            self._send(rank, values)
        return values


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="steps in all, over all runs")
    parser.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--step-seconds", type=float, default=0.0, help="time of a step")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGUSR2, wish_stop)
    folder = Path(os.environ["CHECKPOINT_DIR"])
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    star = Star(rank, size, (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))
    places = star.gather(os.environ.get("SLURMD_NODENAME", "localhost"))

    found = checkpoints.newest_valid(folder) if rank == 0 else None
    step = star.gather(found[0] if found else 0)[0]
    if rank == 0:
        print("ranks " + " ".join(f"{number}={place}" for number, place in enumerate(places)), flush=True)
        print(f"start at step {step} of {options.steps}, stand-in", flush=True)

    def save() -> None:
        if rank == 0:
            path = checkpoints.save(folder, step, json.dumps({"step": step}).encode())
            print(f"saved step {step} to {path.name[:17]}", flush=True)

    while step < options.steps:
        time.sleep(options.step_seconds)
        step += 1
        if any(star.gather(stop_wished)):
            save()
            if rank == 0:
                print(f"stopped at step {step}", flush=True)
            break
        if step % options.checkpoint_every == 0 or step == options.steps:
            save()
    else:
        if rank == 0:
            print(f"finished at step {step}", flush=True)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # one that is late must not hit Python as it ends
    star.gather(None)


if __name__ == "__main__":
    main()
