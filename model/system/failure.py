"""How an exception ends a run: status, reason, and what to do about it.

CUDA reports most failures late and in one type, `torch.AcceleratorError`, and only the text tells
an index out of range from a GPU that fell off the bus. They call for opposite answers, mending the
code or starting again on another machine, so the text is read here, once. No torch: exceptions are
told by the names of their classes, and the tests hold those names to torch's.
"""

from dataclasses import dataclass

REASON_CHARACTERS = 500


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One of `rundir.STATUSES` with its reason; a traceback helps only where `unexpected`."""

    status: str
    reason: str
    hint: str | None
    unexpected: bool = False


FEWER_ROWS = "Lower system.device_batch_rows; the batch stays as it is, in more forward passes."
IN_THE_CODE = (
    "A kernel met a value it cannot work with, mostly an index outside its table: a fault of code "
    "or data and not of the GPU. Run it with system.device: cpu, or with CUDA_LAUNCH_BLOCKING=1, "
    "to see where."
)
IN_A_KERNEL = (
    "A kernel or the GPU failed. Start the run again: if it fails at the same place, name another "
    "system.attention or set system.compile: false to find the kernel; if not, look for Xid lines "
    "in dmesg and for errors in nvidia-smi -q."
)
IN_THE_GPU = (
    "The GPU or its driver failed, not the run. Look for Xid lines in dmesg and for errors in "
    "nvidia-smi -q; reset the GPU or take another. Then the run can be started again."
)
IN_THE_DRIVER = (
    "Torch and the driver do not fit together, or the driver does not answer. Compare nvidia-smi "
    "with torch's CUDA version (python -m model.doctor) and update one of them."
)
IN_ANOTHER_RANK = (
    "Another rank ended, and this one could not go on without it. The log and ranks/*/result.json "
    "say how; then the run can be started again."
)

# CUDA's own words, as cudaGetErrorString has them. "triggered" belongs to the first: torch adds to
# every CUDA error that it could be built "to enable device-side assertions". What is not listed
# (ECC, NVLink, a device that is busy, lost or unknown) is taken for the GPU's own failure.
GPU_REMEDIES = (
    ("device-side assert triggered", IN_THE_CODE),
    ("illegal memory access", IN_A_KERNEL),
    ("illegal instruction", IN_A_KERNEL),
    ("misaligned address", IN_A_KERNEL),
    ("unspecified launch failure", IN_A_KERNEL),
    ("launch timed out", IN_A_KERNEL),
    ("EXECUTION_FAILED", IN_A_KERNEL),  # cuBLAS's and cuDNN's
    ("driver version is insufficient", IN_THE_DRIVER),
    ("no kernel image", IN_THE_DRIVER),
    ("unsupported toolchain", IN_THE_DRIVER),
    ("forward compatibility", IN_THE_DRIVER),
    ("initialization error", IN_THE_DRIVER),
)
GPU_KIND = "AcceleratorError"
GPU_WORDS = ("CUDA error", "CUDA driver", "CUBLAS_STATUS", "CUDNN_STATUS")  # plain RuntimeErrors
RANK_KINDS = ("DistBackendError", "DistNetworkError", "DistStoreError")  # NCCL's
RANK_WORDS = ("reset by peer", "closed by peer")  # gloo's, in plain RuntimeErrors
# CUDA's, cuBLAS's, and the CPU allocator's, which raises a plain RuntimeError
OUT_OF_MEMORY = ("out of memory", "allocate memory", "ALLOC_FAILED")


def classify(error: BaseException) -> Failure:
    """What an exception that reached the edge of the process means."""
    kind, text = type(error).__name__, _one_line(error)
    if kind == "Diverged":
        hint = "Lower the learning rate, or see the curve for where it began."
        return Failure(status="diverged", reason=text, hint=hint)
    if kind == "Interrupted":
        way_on = getattr(error, "hint", None)  # where a checkpoint was left
        return Failure(status="interrupted", reason=text, hint=way_on)
    if is_out_of_memory(error):
        return Failure(status="out_of_memory", reason=text or kind, hint=FEWER_ROWS)
    reason = f"{kind}: {text}"
    told = IN_ANOTHER_RANK if _is_of_another_rank(error) else gpu_remedy(error)
    return Failure(status="failed", reason=reason, hint=told, unexpected=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the GPU or beside it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(words in str(error) for words in OUT_OF_MEMORY)


def gpu_remedy(error: BaseException) -> str | None:
    """What to do about a GPU's failure; null for an error that no GPU told of."""
    text = str(error)
    if type(error).__name__ != GPU_KIND and not any(words in text for words in GPU_WORDS):
        return None
    return next((hint for words, hint in GPU_REMEDIES if words in text), IN_THE_GPU)


def _is_of_another_rank(error: BaseException) -> bool:
    told = any(words in str(error) for words in RANK_WORDS)
    return told or type(error).__name__ in RANK_KINDS


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:REASON_CHARACTERS]
