"""Example of a script for the torchrun template: a small model, trained with DDP, that stops and resumes anywhere.

NCCL where there are GPUs, gloo on CPUs. What a script of your own should take from it: set a handler for USR2 that only
notes the wish, agree on it with the other ranks once a step, save with `checkpoints.save`, resume with `newest_valid`.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import time
from pathlib import Path

import checkpoints
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

stop_wished = False


def wish_stop(number: int, frame: object) -> None:
    global stop_wished
    stop_wished = True


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="steps in all, over all runs")
    parser.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--step-seconds", type=float, default=0.0, help="shortest time of a step")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGUSR2, wish_stop)
    folder = Path(os.environ["CHECKPOINT_DIR"])
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)

    places: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(places, os.environ.get("SLURMD_NODENAME", "localhost"))

    torch.manual_seed(1)
    model = DistributedDataParallel(torch.nn.Linear(16, 1).to(device), device_ids=[local_rank] if cuda else None)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)

    # rank 0 chooses the checkpoint, so that all ranks resume from the same one
    chosen = [checkpoints.newest_valid(folder) if rank == 0 else None]
    dist.broadcast_object_list(chosen, src=0)
    step = 0
    if chosen[0] is not None:
        step, payload = chosen[0]
        state = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
        model.module.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    if rank == 0:
        print("ranks " + " ".join(f"{number}={place}" for number, place in enumerate(places)), flush=True)
        print(f"start at step {step} of {options.steps}, {dist.get_backend()}", flush=True)

    def save() -> None:
        if rank == 0:
            content = io.BytesIO()
            torch.save({"model": model.module.state_dict(), "optimiser": optimiser.state_dict()}, content)
            path = checkpoints.save(folder, step, content.getvalue())
            print(f"saved step {step} to {path.name[:17]}", flush=True)

    loss = torch.zeros(())
    while step < options.steps:
        began = time.monotonic()
        inputs = torch.randn(32, 16, device=device)
        loss = torch.nn.functional.mse_loss(model(inputs), inputs.sum(dim=1, keepdim=True))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        wish = torch.tensor(float(stop_wished), device=device)
        dist.all_reduce(wish, op=dist.ReduceOp.MAX)
        if wish.item():
            save()
            if rank == 0:
                print(f"stopped at step {step}", flush=True)
            break
        if step % options.checkpoint_every == 0 or step == options.steps:
            save()
        time.sleep(max(0.0, options.step_seconds - (time.monotonic() - began)))
    else:
        if rank == 0:
            print(f"finished at step {step}, loss {loss.item():.4f}", flush=True)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # one that is late must not hit Python as it ends
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
