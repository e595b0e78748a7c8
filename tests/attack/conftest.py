"""The long attack runs where its marker is asked for, and nowhere else."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests marked `attack` out unless the -m of the command line names the marker."""
    if "attack" in config.getoption("markexpr"):
        return
    left = [item for item in items if item.get_closest_marker("attack")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if not item.get_closest_marker("attack")]
