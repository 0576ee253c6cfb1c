"""How fast this machine reads memory: a matrix-vector product over as many bytes as a token's weights."""

import time

import torch
import torch.nn.functional as F
from setting import read_job, tell

from assistant.prepacking import PrepackedLinear

COLUMNS = 4096
TIMES = 20


class Products:
    """Matrix-vector products over so many values: torch's own, and on a CPU one with a matrix packed by oneDNN."""

    def __init__(self, values: int, dtype: torch.dtype, device: str) -> None:
        self._device = device
        matrix = torch.ones(values // COLUMNS, COLUMNS, dtype=dtype, device=device)
        vector = torch.ones(COLUMNS, dtype=dtype, device=device)
        layer = PrepackedLinear(COLUMNS, values // COLUMNS, bias=False, device="meta")
        layer.weight = torch.nn.Parameter(matrix, requires_grad=False)
        self._products = (
            lambda: torch.mv(matrix, vector),
            lambda: F.linear(vector[None], matrix),
            lambda: layer(vector[None]),
        )

    @torch.inference_mode()
    def best_seconds(self) -> float:
        """The fastest of several."""
        seconds = []
        for product in self._products:
            product()
            for _ in range(TIMES):
                started = time.perf_counter()
                product()
                if self._device != "cpu":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - started)
        return min(seconds)


if __name__ == "__main__":
    job = read_job()
    best = Products(job.values_per_token, job.torch_dtype, job.device).best_seconds()
    tell({"tokens_per_s": 1 / best, "gb_per_s": job.values_per_token * job.torch_dtype.itemsize / best / 1e9})
