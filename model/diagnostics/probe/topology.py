"""The ways between the GPUs of one machine, from the matrix that `nvidia-smi topo -m` prints.

NV18 is eighteen NVLinks; PIX, PXB, PHB, NODE and SYS are ever longer ways over PCIe; X is the GPU
itself. The matrix numbers GPUs as the driver does, a job as CUDA_VISIBLE_DEVICES does: they are
matched by uuid.
"""

import re
from collections.abc import Sequence

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
GPU = re.compile(r"GPU[0-9]+")
NVLINK = re.compile(r"NV([0-9]+)")
# of one NVLink and direction, of its second to fourth generation; a later one has more
NVLINK_GB_S = 25.0


def matrix(text: str) -> dict[str, dict[str, str]]:
    """The links by names of GPUs, such as GPU0; empty for a text that is no matrix."""
    lines = [COLOUR.sub("", line).split() for line in text.splitlines()]
    header = next((line for line in lines if len(line) > 0 and GPU.fullmatch(line[0])), [])
    columns = [name for name in header if GPU.fullmatch(name)]
    rows = [line for line in lines if line and line is not header and line[0] in columns]
    return {row[0]: dict(zip(columns, row[1:], strict=False)) for row in rows}


def between(text: str, index_of: dict[str, str], uuids: Sequence[str]) -> list[list[str]] | None:
    """The links between these GPUs in their order, by their driver's numbers; null where the
    driver tells none."""
    links, names = matrix(text), [f"GPU{index_of.get(uuid)}" for uuid in uuids]
    if not all(name in links for name in names):
        return None
    return [[links[one].get(other, "") for other in names] for one in names]


def nvlinks(link: str) -> int:
    """How many NVLinks one way is; 0 for PCIe."""
    found = NVLINK.fullmatch(link)
    return int(found[1]) if found else 0
