"""Brings a new template into a workflow that its owner has changed since.

Three versions meet: `was`, the template as the file was written from it; `now`, the template of
today; `mine`, the file as it stands. What the owner did not touch follows the template; what they
changed, added or took out stays as they want it; where both changed one thing the owner's stands
and the conflict is told. Steps are known by their `id`, so that own steps may stand between those
of the template. The tree of `mine` is changed in place, and its comments with it. Pure; after
`file`.
"""

from dataclasses import dataclass, field
from typing import Any

from harness.cli.github.file import Tree, plain

ABSENT: Any = object()


@dataclass
class Merged:
    """What a merge did, place by place (`jobs.gate.timeout-minutes`)."""

    taken: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)  # both changed: the owner's stands


def merge(mine: Tree, was: Tree, now: Tree) -> Merged:
    """Changes `mine` by what changed from `was` to `now`. `was` may be empty: then only adds."""
    done = Merged()
    _merge_mapping(mine, was, now, "", done)
    return done


def _merge_mapping(mine: Tree, was: Tree, now: Tree, place: str, done: Merged) -> None:
    for key in now:
        _merge_key(mine, was, now, key, _under(place, key), done)
    for key in [key for key in was if key not in now and key in mine]:
        if plain(mine[key]) == plain(was[key]):
            _remove(mine, key)
            done.taken.append(f"{_under(place, key)} (removed)")
        else:
            done.kept.append(_under(place, key))


def _merge_key(mine: Tree, was: Tree, now: Tree, key: Any, place: str, done: Merged) -> None:
    new, old = now[key], was.get(key, ABSENT)
    if key not in mine:
        if old is ABSENT:
            _insert(mine, now, key)
            done.taken.append(f"{place} (added)")
        elif plain(old) != plain(new):
            done.kept.append(f"{place} (you removed it)")
        return
    own = mine[key]
    if isinstance(own, dict) and isinstance(new, dict):
        _merge_mapping(own, old if isinstance(old, dict) else {}, new, place, done)
    elif _is_steps(own) and _is_steps(new):
        _merge_steps(own, old if _is_steps(old) else [], new, place, done)
    elif plain(own) == plain(new) or (old is not ABSENT and plain(old) == plain(new)):
        return
    elif old is not ABSENT and plain(own) == plain(old):
        _take(mine, now, key)
        done.taken.append(place)
    else:
        done.kept.append(place)


def _merge_steps(mine: Tree, was: Any, now: Tree, place: str, done: Merged) -> None:
    before = 0  # where a step that is new goes: behind the one that stands before it
    for step in now:
        name = step["id"]
        own, old = _step(mine, name), _step(was, name)
        where = f"{place}.{name}"
        if own is not None:
            _merge_mapping(mine[own], was[old] if old is not None else {}, step, where, done)
            before = own + 1
        elif old is None:
            mine.insert(before, step)
            before += 1
            done.taken.append(f"{where} (added)")
        elif plain(was[old]) != plain(step):
            done.kept.append(f"{where} (you removed it)")
    _drop_steps(mine, was, now, place, done)


def _drop_steps(mine: Tree, was: Any, now: Tree, place: str, done: Merged) -> None:
    """Takes out the steps that the template no longer has, where nobody changed them."""
    for old in was:
        own = _step(mine, old["id"])
        if own is None or _step(now, old["id"]) is not None:
            continue
        where = f"{place}.{old['id']}"
        if plain(mine[own]) == plain(old):
            del mine[own]
            done.taken.append(f"{where} (removed)")
        else:
            done.kept.append(where)


def _is_steps(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(one, dict) and "id" in one for one in value)


def _step(steps: Any, name: str) -> int | None:
    return next(
        (i for i, one in enumerate(steps) if isinstance(one, dict) and one.get("id") == name), None
    )


def _take(mine: Tree, now: Tree, key: Any) -> None:
    """The template's value with the comment on its line; what the owner wrote below it stays."""
    trailing = getattr(mine[key], "comment", None)  # of a block of text: the lines behind it
    mine[key] = now[key]
    if trailing is not None and hasattr(mine[key], "comment"):
        mine[key].comment = trailing
    token, new = _line_comment(mine, key), _line_comment(now, key)
    if token is None or new is None:
        return
    head = new.value.partition("\n")[0]
    _, newline, rest = token.value.partition("\n")
    token.value = head + newline + rest


def _line_comment(mapping: Tree, key: Any) -> Any:
    """The comment behind a value, with all comment lines that follow it, or None."""
    held = mapping.ca.items.get(key)
    return held[2] if held is not None and len(held) > 2 else None


def _insert(mine: Tree, now: Tree, key: Any) -> None:
    """Puts a key where the template has it: behind the nearest one before it that is there."""
    earlier = []
    for other in now:
        if other == key:
            break
        earlier.append(other)
    there = [list(mine).index(other) for other in earlier if other in mine]
    mine.insert(max(there) + 1 if there else 0, key, now[key])
    if (held := now.ca.items.get(key)) is not None:
        mine.ca.items[key] = held


def _remove(mine: Tree, key: Any) -> None:
    mine.pop(key)
    mine.ca.items.pop(key, None)


def _under(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)
