"""Compiles kernels of packages in separate processes while the trainer is built.

FlashAttention-4 and quack compile a kernel at its first call, one after the other: 25 s for a model
with two windows on an H100, as long as Inductor takes for all blocks. Both cache kernels on disk.
With an empty cache, processes are started that call each kernel once on small inputs, and the first
user of a kernel waits for them (`model.system.compile_jobs.wait`). A process that fails logs a
line; the kernel is then compiled at its first call, with its own error if any.
"""

import json
import sys
from typing import TYPE_CHECKING, Any

from model.config import Config
from model.config.kernel_eligibility import mlp_in_fp8
from model.config.shapes import Sizes
from model.system import compile_jobs
from model.system.compile_cache import CompileCache

if TYPE_CHECKING:
    from model.kernels import Kernels

ROWS = 1024  # tokens of the small inputs
PACKAGES = {"flash4": "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR", "quack": "QUACK_CACHE_DIR"}


def start(config: Config, sizes: Sizes, kernels: "Kernels", cache: CompileCache | None) -> None:
    """Compile what is not cached; `kernels` are those chosen for this GPU."""
    if cache is None:
        return
    shape = {"width": sizes.width, "head_width": sizes.head_width, "context": sizes.context}
    for job in jobs_of(config, sizes, kernels, cache):
        compile_jobs.start(["model.runtime.precompile", json.dumps({**job, **shape})])


def jobs_of(
    config: Config, sizes: Sizes, kernels: "Kernels", cache: CompileCache
) -> list[dict[str, Any]]:
    """The job of each process: kernels that will run and of which none is cached."""
    jobs: list[dict[str, Any]] = []
    if kernels.attention == "flash4" and _is_empty(cache, "flash4"):
        # one kernel for full attention, one for all shorter windows
        attending = [window for window in sizes.windows if window]
        windows = {window >= sizes.context: window for window in attending}.values()
        jobs += [{"kernel": "flash4", "window": window} for window in windows]
    if kernels.products == "quack" and _is_empty(cache, "quack"):
        if not mlp_in_fp8(config):
            jobs.append({"kernel": "products", "activation": config.model.activation})
        if config.optimizer.muon is not None:
            jobs.append({"kernel": "symmetric"})
    return jobs


def compile_one(job: dict[str, Any]) -> None:
    """Call the kernels of one job, forward and backward, on a GPU."""
    import torch

    width = job["width"]

    def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.zeros(shape, device="cuda", dtype=dtype).requires_grad_()

    if job["kernel"] == "flash4":
        from model.attention import flash4

        q, k, v = (empty(1, job["context"], 1, job["head_width"]) for _ in range(3))
        flash4.attend(q, k, v, job["window"]).sum().backward()
    elif job["kernel"] == "products":
        from model.kernels import products

        x, residual = empty(ROWS, width), empty(ROWS, width)
        up, down = (
            empty(*s, dtype=torch.float32) for s in [(4 * width, width), (width, 4 * width)]
        )
        out = products.add_product(residual, x, empty(width, width, dtype=torch.float32))
        products.add_mlp(out, x, up, down, job["activation"]).sum().backward()
    else:
        from model.optim.orthogonal import POLAR_EXPRESS, orthogonalize, products_of

        for rows, columns in [(width, width), (4 * width, width), (width, 4 * width)]:
            stack = empty(2, rows, columns).detach()
            orthogonalize(stack, list(POLAR_EXPRESS[:1]), products_of("quack", rows, columns))
    torch.cuda.synchronize()


def _is_empty(cache: CompileCache, package: str) -> bool:
    folder = cache.folders[PACKAGES[package]]
    return not any(path.is_file() for path in folder.rglob("*"))


if __name__ == "__main__":
    compile_one(json.loads(sys.argv[1]))
