"""`harness --help` stays light; the other import rules are import-linter's, in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_help_imports_no_heavy_library():
    code = (
        "import sys; import harness.cli.app, harness.__main__; "
        "print([m for m in ('numpy', 'scipy', 'pyarrow', 'pandas', 'plotly', 'torch', 'ruamel', "
        "'optuna', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
