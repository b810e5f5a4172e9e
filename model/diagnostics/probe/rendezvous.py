"""Exchanges facts between ranks through torchrun's store, which needs no GPU and no link between
GPUs.

Reads have a timeout: a rank that does not respond is missing from the result. A single rank uses a
local store.
"""

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from model.distributed.ranks import Ranks

POLL_S = 0.02


class Rendezvous:
    """Named texts, visible to all ranks."""

    def __init__(self, ranks: Ranks, store: Any) -> None:
        self.ranks, self.store = ranks, store

    def post(self, name: str, text: str) -> None:
        self.store.set(name, text)

    def read(self, names: Iterable[str], limit_s: float) -> dict[str, str]:
        """The texts that exist within `limit_s`; returns early once all do."""
        waited, found = list(names), dict[str, str]()
        deadline = time.monotonic() + limit_s
        while True:
            for name in [name for name in waited if self.store.check([name])]:
                found[name] = self.store.get(name).decode()
                waited.remove(name)
            if not waited or time.monotonic() > deadline:
                return found
            time.sleep(POLL_S)

    def exchange(
        self, name: str, text: str, ranks: Iterable[int], limit_s: float
    ) -> dict[int, str]:
        """Post this rank's text and read those of `ranks`, by rank."""
        self.post(f"{name}/{self.ranks.rank}", text)
        names = {f"{name}/{rank}": rank for rank in ranks}
        return {names[key]: text for key, text in self.read(names, limit_s).items()}

    def broadcast(self, name: str, own: str, limit_s: float) -> str | None:
        """Rank 0's text; null where it is lost."""
        if self.ranks.rank == 0:
            self.post(name, own)
        return self.read([name], limit_s).get(name)


def connect(ranks: Ranks, limit_s: float) -> Rendezvous:
    """The rendezvous of these ranks; raises the store's exception where it is unreachable."""
    from torch._C._distributed_c10d import HashStore, PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if ranks.alone:
        return Rendezvous(ranks, HashStore())
    found = rendezvous("env://", ranks.rank, ranks.count, timeout=timedelta(seconds=limit_s))
    store, _, _ = next(iter(found))
    return Rendezvous(ranks, PrefixStore("model.probe", store))
