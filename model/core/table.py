"""The result of an evaluation as a table: a line a task, and the two metrics. No torch."""

from collections.abc import Iterator

from model.core.outcomes import Result

HEAD = f"{'task':34}{'examples':>9}{'accuracy':>10}{'centred':>9}{'SE':>8}{'soft':>9}{'s':>9}"


def lines(result: Result, seconds: float) -> Iterator[str]:
    """The table; standard errors are over examples."""
    yield HEAD
    for task in result.tasks:
        yield (
            f"{task.task.name:34}{task.examples:9,}{task.accuracy:10.4f}{task.centred:9.4f}"
            f"{task.centred_se:8.4f}{task.soft:9.4f}{task.seconds:9.2f}"
        )
    yield (
        f"CORE {result.core:.4f} (SE {result.core_se:.4f})  "
        f"core_soft {result.core_soft:.5f} (SE {result.core_soft_se:.5f})  {seconds:.1f} s"
    )
