"""PyTorch's side of `hadal bench comm`: all-reduce of fp32 over Gloo, between processes of this machine.

    python bench/peers/pytorch_comm.py --nproc 2 --sizes 4096,1048576,67108864

Needs torch 2.13. Prints, for each size, the median milliseconds of a call on rank 0, after warm-up calls; calls follow each
other as in training. The numbers of calls are those of `hadal bench comm`.
"""

import argparse
import json
import os
import socket
import statistics
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def calls_of(size):
    """As callsOf of src/cli/run-bench-comm.ts."""
    return min(200, max(5, 2**28 // size))


def measure(rank, args, port):
    os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
    torch.set_num_threads(args.threads)
    dist.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=args.nproc)
    results = []
    for size in args.sizes:
        tensor = torch.ones(size // 4)
        times = []
        for _ in range(2):
            dist.all_reduce(tensor)
        dist.barrier()
        for _ in range(calls_of(size)):
            start = time.perf_counter()
            dist.all_reduce(tensor)
            times.append(time.perf_counter() - start)
            tensor.fill_(1)
        results.append({'bytes': size, 'ms': 1000 * statistics.median(times)})
    dist.barrier()
    if rank == 0:
        print(json.dumps({'results': results}), flush=True)
    dist.destroy_process_group()


def free_port():
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--nproc', type=int, default=2)
    parser.add_argument('--threads', type=int, default=1, help='threads of each process')
    parser.add_argument('--sizes', type=lambda text: [int(size) for size in text.split(',')], default=[4096, 2**20, 2**26])
    args = parser.parse_args()
    mp.spawn(measure, (args, free_port()), nprocs=args.nproc)
