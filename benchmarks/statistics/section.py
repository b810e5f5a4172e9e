"""The command line of a script that prints one section of docs/operating-characteristics.md."""

import argparse
from collections.abc import Callable, Sequence


def print_section(
    description: str | None, lines: Callable[[int], Sequence[str]], draws: int
) -> None:
    """Prints `lines(draws)`. `draws`: simulated cases a cell, unless --draws states them."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=draws)
    print("\n".join(lines(parser.parse_args().draws)))
