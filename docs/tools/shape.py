"""Prints the shape of a checkout as Markdown: files, lines, imports, and what a command enters.

    python docs/tools/shape.py                     # this checkout
    python docs/tools/shape.py --against main      # a git ref, or another folder, beside it
    python docs/tools/shape.py --no-commands       # without running anything: 2 seconds

Reads `harness/` and `model/` of any layout. A *top place* is a file or folder directly inside one
of the two; levels, arrows and circles are of the imports between top places, those for type
checkers included, as import-linter counts them. A file is *entered* by a command if one of its
functions is called, in the process of the command itself; the commands run on the simulated
trainer.
"""

import argparse
import ast
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("harness", "model")
LONG_LINES = 40  # of a function, from `def` to its end
Edges = Mapping[str, Collection[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("checkout", nargs="?", type=Path, default=ROOT)
    parser.add_argument("--against", metavar="REF|DIR", help="measure this first, as `before`")
    parser.add_argument("--no-commands", action="store_true", help="run no command")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.checkout, commands=not options.no_commands)))
        return
    with contextlib.ExitStack() as stack:
        checkouts = {"now": options.checkout.resolve()}
        if options.against:
            before = stack.enter_context(checkout_of(options.against))
            checkouts = {"before": before, **checkouts}
        shapes = {name: _measured(path, options.no_commands) for name, path in checkouts.items()}
    print(markdown(shapes))


@contextlib.contextmanager
def checkout_of(where: str) -> Iterator[Path]:
    """A folder, or a git ref of this repository in a worktree that is removed afterwards."""
    if Path(where).is_dir():
        yield Path(where).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(path), where], check=True)
        try:
            yield path
        finally:
            subprocess.run([*git, "remove", "--force", str(path)], check=True)


def _measured(checkout: Path, no_commands: bool) -> dict[str, Any]:
    """`measure` in a process of its own, which sees the packages of that checkout only."""
    command = [sys.executable, __file__, "--measure", str(checkout)]
    command += ["--no-commands"] * no_commands
    done = subprocess.run(
        command, cwd=checkout, env=_environment(checkout), stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def _environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout)}


def measure(checkout: Path, *, commands: bool) -> dict[str, Any]:
    """All numbers of one checkout."""
    shape: dict[str, Any] = {name: package_shape(checkout, name) for name in PACKAGES}
    shape["entered"] = entered(checkout) if commands else {}
    return shape


# --- files, functions, imports --------------------------------------------------------------------


def package_shape(checkout: Path, package: str) -> dict[str, Any]:
    """Files, lines, functions and imports of one package."""
    root = checkout / package
    paths = sorted(root.rglob("*.py"))
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    longest = max(paths, key=lines.__getitem__)
    functions = [length for path in paths for length in _function_lengths(path)]
    files = imports(checkout, package)
    places = _between_places(files)
    sizes: Counter[str] = Counter()
    for path, count in lines.items():
        sizes[path.relative_to(root).parts[0].removesuffix(".py")] += count
    return {
        "files at the top": sum(path.parent == root for path in paths),
        "folders at the top": sum((child / "__init__.py").exists() for child in root.iterdir()),
        "files": len(paths),
        "lines": sum(lines.values()),
        "longest file": f"{lines[longest]} lines, {longest.relative_to(checkout)}",
        "functions": len(functions),
        f"functions over {LONG_LINES} lines": sum(length > LONG_LINES for length in functions),
        "import levels": levels(places),
        "arrows between top places": sum(map(len, places.values())),
        "circles of top places": _circles(places),
        "circles of files": _circles(files),
        "places": dict(sizes.most_common()),
    }


def _function_lengths(path: Path) -> Iterator[int]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def imports(checkout: Path, package: str) -> dict[str, set[str]]:
    """Module -> modules of the same package that it imports."""
    import grimp

    sys.path.insert(0, str(checkout))
    graph = grimp.build_graph(package, cache_dir=None)
    return {
        module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules
    }


def _between_places(files: Edges) -> dict[str, set[str]]:
    """The same between direct children of the package; its own `__init__` is none of them."""
    places: dict[str, set[str]] = {}
    for module, imported in files.items():
        if "." not in module:
            continue
        ends = {name.split(".")[1] for name in imported if "." in name}
        place = module.split(".")[1]
        places.setdefault(place, set()).update(ends - {place})
    return places


def components(edges: Edges) -> list[set[str]]:
    """Strongly connected components, each after those that it imports (Kosaraju)."""
    back: dict[str, set[str]] = {node: set() for node in edges}
    for node, ends in edges.items():
        for end in ends:
            back.setdefault(end, set()).add(node)

    def visit(node: str, graph: Edges, seen: set[str]) -> list[str]:
        """`node` and what is reached from it and not yet seen, last reached first to end."""
        order, stack = [], [(node, iter(sorted(graph.get(node, ()))))]
        seen.add(node)
        while stack:
            ends = stack[-1][1]
            following = next((end for end in ends if end not in seen), None)
            if following is None:
                order.append(stack.pop()[0])
            else:
                seen.add(following)
                stack.append((following, iter(sorted(graph.get(following, ())))))
        return order

    seen: set[str] = set()
    order = [
        node for start in sorted(back) if start not in seen for node in visit(start, edges, seen)
    ]
    seen = set()
    found = [set(visit(node, back, seen)) for node in reversed(order) if node not in seen]
    return found[::-1]


def levels(edges: Edges) -> int:
    """The longest chain of imports; a circle counts as one level."""
    level: dict[str, int] = {}
    for component in components(edges):
        below = {end for node in component for end in edges.get(node, ())} - component
        height = 1 + max((level[end] for end in below), default=0)
        level.update(dict.fromkeys(component, height))
    return max(level.values())


def _circles(edges: Edges) -> str:
    circles = [component for component in components(edges) if len(component) > 1]
    names = "; ".join(" ".join(sorted(circle)) for circle in circles)
    return f"{len(circles)}: {names}" if circles else "0"


# --- commands -------------------------------------------------------------------------------------

TRACE = """
import json, runpy, sys, threading

out, sys.argv = sys.argv[1], ["harness", *sys.argv[2:]]
seen = set()

def profile(frame, event, arg):
    code = frame.f_code
    if event == "call" and code.co_flags & 1:  # a function, not the body of a module or class
        seen.add(code.co_filename)

threading.setprofile(profile)
sys.setprofile(profile)
try:
    runpy.run_module("harness", run_name="__main__")
finally:
    sys.setprofile(None)
    threading.setprofile(None)
    with open(out, "w") as file:
        json.dump(sorted(seen), file)
"""


def entered(checkout: Path) -> dict[str, list[str]]:
    """Command -> files of harness/ whose functions it calls, on the simulated trainer."""
    config = next((checkout / "ablations").glob("*/fake.yaml"))
    for folder in ("configs", "bases"):  # the second in checkouts before 2026-11-28
        if (checkout / "ablations" / folder / "fake.yaml").exists():
            config = checkout / "ablations" / folder / "fake.yaml"
    study = checkout / "ablations" / "studies" / "fake.yaml"
    study = study if study.exists() else checkout / "ablations" / "fake.yaml"
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "runs"
        gate = ["gate", str(config), "--trainer", "fake", "--base", "HEAD", "--head", "."]
        called = {"study": _entered(checkout, store, ["study", str(study), "--no-html"])}
        name = next(store.glob("studies/*.json"))
        arms = [arm["name"] for arm in json.loads(name.read_text())["arms"]]
        sides = [f"{store}:{name.stem}/{arm}" for arm in arms[:2]]
        called["compare"] = _entered(checkout, store, ["compare", sides[0], "--", sides[1]])
        called["gate"] = _entered(checkout, store, [*gate, "--budget-minutes", "1"])
    return called


def _entered(checkout: Path, store: Path, arguments: list[str]) -> list[str]:
    out = store.parent / "files.json"
    out.unlink(missing_ok=True)
    place = arguments.index("--") if "--" in arguments else len(arguments)
    arguments[place:place] = ["--store", str(store)]
    done = subprocess.run(
        [sys.executable, "-c", TRACE, str(out), *arguments],
        cwd=checkout,
        env=_environment(checkout),
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, 3, 10):  # pass, inconclusive, regression
        raise SystemExit(
            f"harness {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}"
        )
    root = checkout / "harness"
    files = map(Path, json.loads(out.read_text()))
    return [str(path.relative_to(root)) for path in files if path.is_relative_to(root)]


# --- the page -------------------------------------------------------------------------------------


def markdown(shapes: dict[str, dict[str, Any]]) -> str:
    """One table a package, and one of commands; a column a checkout."""
    heads = list(shapes)
    parts = []
    for package in PACKAGES:
        of = [shape[package] for shape in shapes.values()]
        rows = [[name, *(_cell(one[name]) for one in of)] for name in of[0] if name != "places"]
        parts.append(_table([f"{package}/", *heads], rows))
    commands = [
        [name, *(str(len(shape["entered"][name])) for shape in shapes.values())]
        for name in next(iter(shapes.values()))["entered"]
    ]
    if commands:
        parts.append(_table(["files of harness/ entered by", *heads], commands))
    for package in PACKAGES:
        rows = [
            [" · ".join(f"{place} {lines:,}" for place, lines in shape[package]["places"].items())]
            for shape in shapes.values()
        ]
        titled = [[head, *row] for head, row in zip(heads, rows, strict=True)]
        parts.append(_table([f"{package}/", "lines by top place"], titled))
    return "\n\n".join(parts)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
