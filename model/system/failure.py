"""Classifies an exception that ends a run: status, reason and hint.

CUDA reports most failures late and as one type, `torch.AcceleratorError`; only the text
distinguishes an index out of range from a GPU that fell off the bus. The first needs a fix in the
code, the second another machine, so this module reads the text. No torch: exceptions are recognised
by the names of their classes, and the tests compare those names with torch's.
"""

from dataclasses import dataclass

REASON_CHARACTERS = 500


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A status of `run_dir.STATUSES` with its reason; print a traceback only where `unexpected`."""

    status: str
    reason: str
    hint: str | None
    unexpected: bool = False


FEWER_ROWS = "Lower system.device_batch_rows; the batch stays the same, in more forward passes."
IN_THE_CODE = (
    "A kernel got an invalid value, usually an index out of range: a fault of code or data, not of "
    "the GPU. Run with system.device: cpu, or with CUDA_LAUNCH_BLOCKING=1, to find it."
)
IN_A_KERNEL = (
    "A kernel or the GPU failed. Start the run again. If it fails at the same step, set another "
    "system.attention or system.compile: false to find the kernel; if not, look for Xid lines in "
    "dmesg and for errors in nvidia-smi -q."
)
IN_THE_GPU = (
    "The GPU or its driver failed. Look for Xid lines in dmesg and for errors in nvidia-smi -q; "
    "reset the GPU or use another one. Then the run can be started again."
)
IN_THE_DRIVER = (
    "Torch and the driver are incompatible, or the driver does not respond. Compare nvidia-smi "
    "with torch's CUDA version (python -m model.doctor) and update one of them."
)
IN_ANOTHER_RANK = (
    "Another rank ended, and this rank cannot continue without it. See the log and "
    "ranks/*/result.json; then the run can be started again."
)

# Texts of cudaGetErrorString. The first needs "triggered", because torch appends "to enable
# device-side assertions" to every CUDA error. Errors that are not listed (ECC, NVLink, a busy, lost
# or unknown device) count as failures of the GPU.
GPU_HINTS = (
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
GPU_MESSAGES = ("CUDA error", "CUDA driver", "CUBLAS_STATUS", "CUDNN_STATUS")  # plain RuntimeErrors
RANK_KINDS = ("DistBackendError", "DistNetworkError", "DistStoreError")  # NCCL's
RANK_MESSAGES = ("reset by peer", "closed by peer")  # gloo's, in plain RuntimeErrors
# CUDA's, cuBLAS's, and the CPU allocator's, which raises a plain RuntimeError
OUT_OF_MEMORY = ("out of memory", "allocate memory", "ALLOC_FAILED")


def classify(error: BaseException) -> Failure:
    """The failure of an exception that reached the edge of the process."""
    kind, text = type(error).__name__, _one_line(error)
    if kind == "Diverged":
        hint = "Lower the learning rate, or find the first bad step in the loss curve."
        return Failure(status="diverged", reason=text, hint=hint)
    if kind == "Interrupted":
        resume = getattr(error, "hint", None)  # names the checkpoint
        return Failure(status="interrupted", reason=text, hint=resume)
    if is_out_of_memory(error):
        return Failure(status="out_of_memory", reason=text or kind, hint=FEWER_ROWS)
    reason = f"{kind}: {text}"
    advice = IN_ANOTHER_RANK if _is_of_another_rank(error) else gpu_hint(error)
    return Failure(status="failed", reason=reason, hint=advice, unexpected=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the GPU or the host ran out of memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(text in str(error) for text in OUT_OF_MEMORY)


def gpu_hint(error: BaseException) -> str | None:
    """The hint for a GPU's failure; null for other errors."""
    text = str(error)
    if type(error).__name__ != GPU_KIND and not any(part in text for part in GPU_MESSAGES):
        return None
    return next((hint for part, hint in GPU_HINTS if part in text), IN_THE_GPU)


def _is_of_another_rank(error: BaseException) -> bool:
    message = any(part in str(error) for part in RANK_MESSAGES)
    return message or type(error).__name__ in RANK_KINDS


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:REASON_CHARACTERS]
