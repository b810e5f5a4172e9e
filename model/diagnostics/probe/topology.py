"""The links between the GPUs of one machine, from the matrix of `nvidia-smi topo -m`.

NV18 is eighteen NVLinks; PIX, PXB, PHB, NODE and SYS are increasingly long paths over PCIe; X is
the GPU itself. The driver's GPU numbers differ from those of CUDA_VISIBLE_DEVICES, so GPUs are
matched by uuid.
"""

import re
from collections.abc import Sequence

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
GPU = re.compile(r"GPU[0-9]+")
NVLINK = re.compile(r"NV([0-9]+)")
# one NVLink in one direction, second to fourth generation
NVLINK_GB_S = 25.0


def matrix(text: str) -> dict[str, dict[str, str]]:
    """The links by GPU names, such as GPU0; empty for other text."""
    lines = [COLOUR.sub("", line).split() for line in text.splitlines()]
    header = next((line for line in lines if len(line) > 0 and GPU.fullmatch(line[0])), [])
    columns = [name for name in header if GPU.fullmatch(name)]
    rows = [line for line in lines if line and line is not header and line[0] in columns]
    return {row[0]: dict(zip(columns, row[1:], strict=False)) for row in rows}


def between(text: str, index_of: dict[str, str], uuids: Sequence[str]) -> list[list[str]] | None:
    """The links between these GPUs in their order; null where the driver reports none."""
    links, names = matrix(text), [f"GPU{index_of.get(uuid)}" for uuid in uuids]
    if not all(name in links for name in names):
        return None
    return [[links[one].get(other, "") for other in names] for one in names]


def nvlinks(link: str) -> int:
    """Number of NVLinks of a link; 0 for PCIe."""
    found = NVLINK.fullmatch(link)
    return int(found[1]) if found else 0
