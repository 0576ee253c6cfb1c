"""How fast this machine reads memory: a matrix-vector product over as many bytes as a token's weights."""

import time

import torch
import torch.nn.functional as F
from setting import read_job, tell

COLUMNS = 4096
TIMES = 20


def best_seconds(values: int, dtype: torch.dtype, device: str) -> float:
    """The fastest of several products with a matrix of so many values, in seconds."""
    matrix = torch.ones(values // COLUMNS, COLUMNS, dtype=dtype, device=device)
    vector = torch.ones(COLUMNS, dtype=dtype, device=device)
    seconds = []
    with torch.inference_mode():
        for product in (torch.mv, lambda m, v: F.linear(v[None], m)):
            for _ in range(TIMES):
                started = time.perf_counter()
                product(matrix, vector)
                if device != "cpu":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    job = read_job()
    best = best_seconds(job.values_per_token, job.torch_dtype, job.device)
    tell({"tokens_per_s": 1 / best, "gb_per_s": job.values_per_token * job.torch_dtype.itemsize / best / 1e9})
