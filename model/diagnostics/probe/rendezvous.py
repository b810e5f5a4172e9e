"""Where ranks leave each other their facts: torchrun's store, which needs no GPU and no link
between GPUs.

A rank that does not answer is missing from what is read, after a limit; nobody waits for it longer.
One rank alone has a board of its own.
"""

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from model.distributed.ranks import Ranks

LOOK_S = 0.02


class Board:
    """Texts by name, seen by all ranks."""

    def __init__(self, ranks: Ranks, store: Any) -> None:
        self.ranks, self.store = ranks, store

    def post(self, name: str, text: str) -> None:
        """Leaves a text for all."""
        self.store.set(name, text)

    def read(self, names: Iterable[str], limit_s: float) -> dict[str, str]:
        """Those of these texts that were there by the limit; all of them, mostly sooner."""
        waited, found = list(names), dict[str, str]()
        deadline = time.monotonic() + limit_s
        while True:
            for name in [name for name in waited if self.store.check([name])]:
                found[name] = self.store.get(name).decode()
                waited.remove(name)
            if not waited or time.monotonic() > deadline:
                return found
            time.sleep(LOOK_S)

    def round(self, name: str, text: str, ranks: Iterable[int], limit_s: float) -> dict[int, str]:
        """Leaves this rank's text and reads those of `ranks`, by rank."""
        self.post(f"{name}/{self.ranks.rank}", text)
        names = {f"{name}/{rank}": rank for rank in ranks}
        return {names[key]: text for key, text in self.read(names, limit_s).items()}

    def agreed(self, name: str, own: str, limit_s: float) -> str | None:
        """What rank 0 says, whatever the others would; null where it is gone."""
        if self.ranks.rank == 0:
            self.post(name, own)
        return self.read([name], limit_s).get(name)


def meet(ranks: Ranks, limit_s: float) -> Board:
    """The board of these ranks; raises what the store raises where it cannot be reached."""
    from torch._C._distributed_c10d import HashStore, PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if ranks.alone:
        return Board(ranks, HashStore())
    found = rendezvous("env://", ranks.rank, ranks.count, timeout=timedelta(seconds=limit_s))
    store, _, _ = next(iter(found))
    return Board(ranks, PrefixStore("model.probe", store))
