import re
from pathlib import Path

import pytest

from .pages import python_blocks

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_pipeline_has_ten_lines_and_valid_imports():
    block = python_blocks(README)[0]
    assert len([line for line in block.splitlines() if line]) == 10
    imports = "\n".join(line for line in block.splitlines() if line.startswith("from"))
    exec(compile(imports, "README.md", "exec"), {})


def test_pictures_and_files_exist():
    for target in re.findall(r"\]\(((?!http)[^)]+)\)|`(examples/[^`]+)`", README.read_text()):
        path = next(filter(None, target))
        if not (README.parent / path).exists():
            pytest.fail(f"README.md points to {path}, which does not exist.")
