"""The mutants of a module: small changes of its code that a test should find.

Texts, annotations, decorators and assertions are not changed. The syntax tree says where a change
is, and the bytes of the file are changed there, so that everything else stays as it is.
"""

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple


class Mutant(NamedTuple):
    """One change. `lines`: those that a test has to run to find it; None for any of the module."""

    path: str
    name: str
    lines: range | None
    start: int  # in the bytes of the file
    end: int
    text: str


COMPARISONS: dict[type, list[type]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    **{ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is]},
    **{ast.In: [ast.NotIn], ast.NotIn: [ast.In]},
}
OPERATORS: dict[type, type] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult},
}
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor", "floor": "ceil"}
REPLACED = {"sorted": "list", "reversed": "list", "abs": "", "sqrt": ""}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def changes(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Parts of a node and the code that each may be replaced by."""

    def but(**parts: Any) -> str:
        changed = copy(node)
        for name, value in parts.items():
            setattr(changed, name, value)
        return ast.unparse(changed) if isinstance(node, ast.stmt) else f"({ast.unparse(changed)})"

    match node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                for other in COMPARISONS[type(op)]:
                    yield node, but(ops=[*ops[:i], other(), *ops[i + 1 :]])
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in OPERATORS:
            yield node, but(op=OPERATORS[type(op)]())
        case ast.BoolOp(op=op, values=values):
            yield node, but(op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for i in range(len(values)):
                yield node, but(values=[*values[:i], *values[i + 1 :]])
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield node, f"({ast.unparse(operand)})"
        case ast.Constant(value=bool(value)):
            yield node, str(not value)
        case ast.Constant(value=int(value)):
            yield node, str(value + 1)
        case ast.Constant(value=float(value)):  # 1e-9 is a tolerance
            yield node, str(2 * value if abs(value) > 1e-6 else value + 1)
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            if isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.NamedExpr):
                yield test, f"(not ({ast.unparse(test)}))"
        case ast.comprehension(ifs=ifs):
            yield from ((test, "True") for test in ifs)
        case ast.keyword(arg=str(), value=ast.Name() | ast.Attribute() as value):
            yield value, "None"
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield node, "return None"
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name) as func, args=[first, *_]):
            if name in SWAPPED:
                yield func, ast.unparse(func).removesuffix(name) + SWAPPED[name]
            if name in REPLACED:
                yield node, f"{REPLACED[name]}({ast.unparse(first)})"
        case ast.Raise() | ast.Continue() | ast.Break() | ast.Delete():
            yield node, "pass"
        case ast.Expr(value=ast.Call()) | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield node, "pass"
    if isinstance(node, ast.AugAssign):
        yield node, "pass"


def children(node: ast.AST) -> list[ast.AST]:
    """The parts of a node that may be changed: no texts, annotations, decorators or assertions."""
    match node:
        case ast.JoinedStr() | ast.Raise() | ast.Assert() | ast.If(test=ast.Name("TYPE_CHECKING")):
            return []
        case ast.FunctionDef(args=args, body=body):
            return [*args.defaults, *(part for part in args.kw_defaults if part), *body]
        case ast.ClassDef(body=body):
            return [*body]
        case ast.AnnAssign(value=value):
            return [value] if value else []
    return [part for part in ast.iter_child_nodes(node) if not is_text(part)]


def is_text(node: ast.AST) -> bool:
    """Whether an expression is a text for people, or a choice of one."""
    match node:
        case ast.IfExp(body=body, orelse=orelse):
            return is_text(body) or is_text(orelse)
        case ast.Constant(value=str(value)):
            return " " in value
    return isinstance(node, ast.JoinedStr)


def of_module(root: Path, path: str) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    source = (root / path).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found, names = list[Mutant](), Counter[str]()

    def visit(node: ast.AST, scope: tuple[str, ...], lines: range | None) -> None:
        if isinstance(node, Function | ast.ClassDef):
            scope = (*scope, node.name)
        if isinstance(node, Function):  # of its defaults: they are read where they are used
            lines = range(node.body[0].lineno, node.end_lineno + 1)
        elif isinstance(node, ast.stmt) and lines:
            inner = getattr(node, "body", None)
            lines = range(node.lineno, inner[0].lineno if inner else node.end_lineno + 1)
        for part, text in changes(node):
            start = starts[part.lineno - 1] + part.col_offset
            end = starts[part.end_lineno - 1] + part.end_col_offset
            old = " ".join(source[start:end].decode().split())
            name = f"{path} {'.'.join(scope)}: {old} -> {text}"
            names[name] += 1
            name += f" #{names[name]}" if names[name] > 1 else ""
            found.append(Mutant(path, name, lines, start, end, text))
        for child in children(node):
            visit(child, scope, lines)

    visit(ast.parse(source), (), None)
    return found


def sampled(by_module: Mapping[str, list[Mutant]], number: int, seed: int) -> list[Mutant]:
    """`number` mutants, of each module in proportion; a change of the code changes few of them."""
    total, before, taken = sum(map(len, by_module.values())), 0, list[Mutant]()
    for found in by_module.values():
        after = before + len(found)
        keys = {one: hashlib.sha256(f"{seed} {one.name}".encode()).digest() for one in found}
        count = round(after * number / total) - round(before * number / total)
        taken += sorted(found, key=lambda one: keys[one])[:count]
        before = after
    return taken
