"""The environment variables that a trainer's process gets.

A gate runs code that nobody has merged. What a CI job has in its environment is not for that code:
tokens, the files by which a step sets variables, paths and summaries (`GITHUB_ENV`), and variables
that make later programs load code (`BASH_ENV`, `LD_PRELOAD`). So no trainer inherits the
environment of the harness. It gets the variables below, which describe the machine, its GPUs, its
scheduler and where data is kept, and those that the repository names in `ci/environment.txt`. The
file is read in the working directory of the harness, which in CI is the default branch's checkout,
so that it is reviewed like other code. All trainers get the same, in gates and elsewhere: a run of
a study and a run of a gate do not differ by a variable.
"""

import os
import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from harness import files
from harness.errors import UsageError

FILE = Path("ci/environment.txt")
ALLOWED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "HOSTNAME", "LANG", "LANGUAGE", "LC_*", "TZ"),
    *("TERM", "COLUMNS", "LINES", "TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "XDG_DATA_HOME"),
    # programs and libraries
    *("LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "C_INCLUDE_PATH", "CC", "CXX", "VIRTUAL_ENV"),
    *("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONUNBUFFERED"),
    *("PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONWARNINGS"),
    *("OMP_*", "KMP_*", "GOMP_*", "MKL_*", "OPENBLAS_*", "MALLOC_*"),
    # GPUs
    *("CUDA*", "NVIDIA_*", "NCCL_*", "CUBLAS*", "CUDNN*", "TORCH*", "PYTORCH_*", "TRITON_*"),
    *("CUTE_DSL_*", "FLASH_ATTENTION_*", "HIP_*", "ROCR_*", "GLOO_*", "UCX_*", "FI_*"),
    # schedulers and ranks
    *("SLURM*", "SUBMITIT_*", "PMI*", "OMPI_*", "PET_*", "MASTER_ADDR", "MASTER_PORT", "RANK"),
    *("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK"),
    # data and downloads
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE"),
    *("HF_ENDPOINT", "TIKTOKEN_CACHE_DIR", "NANOCHAT_BASE_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy"),
    *("all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)
_SECRET = re.compile("TOKEN|SECRET|PASSW|CREDENTIAL|JWT|API_?KEY|PRIVATE", re.IGNORECASE)
_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\*?")


def trainer_environment(
    more: Mapping[str, str] | None = None,
    *,
    source: Mapping[str, str] = os.environ,
    also: Collection[str] = (),
) -> dict[str, str]:
    """The environment of a trainer's process.

    Args:
        more: Variables that the harness sets for this process.
        source: Where the others come from.
        also: Further patterns, such as PIP_* for an installation.

    Raises UsageError for a damaged `ci/environment.txt`.
    """
    patterns = (*ALLOWED, *also, *listed_patterns())
    passed = {name: value for name, value in source.items() if _passes(name, patterns)}
    return {**passed, **(more or {})}


def listed_patterns(path: Path = FILE) -> list[str]:
    """The names in a repository's list, one a line: `NAME`, or `PREFIX_*`; `#` starts a comment.

    Empty without a file. Raises UsageError.
    """
    try:
        with files.open_regular(path, follow=True) as handle:
            lines = handle.read().decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        hint = "Write it again: one name of an environment variable a line."
        raise UsageError(str(path), "a text file", str(error), hint) from error
    stripped = [(number, line.partition("#")[0].strip()) for number, line in enumerate(lines, 1)]
    for number, name in stripped:
        if name and not _PATTERN.fullmatch(name):
            expected = "the name of an environment variable, or its beginning and *"
            hint = "One a line, such as WANDB_MODE or MY_DATA_*; without values."
            raise UsageError(f"{path}, line {number}", expected, repr(name), hint)
    return [name for _, name in stripped if name]


def _passes(name: str, patterns: Collection[str]) -> bool:
    """Whether a name is in full among the patterns, or matches one and is not that of a secret."""
    if name in patterns:
        return True
    return not _SECRET.search(name) and any(fnmatchcase(name, one) for one in patterns)
