"""The house rules hold for this tree, and each check of them finds a small planted violation."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import architecture

ROOT = Path(__file__).parents[2]
QUICKSTART_LINES = 199
HEAVY = ("torch", "ray", "transformers", "deepspeed")


def plant(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "check",
    [
        architecture.arrow_findings,
        architecture.ray_findings,
        architecture.config_findings,
        architecture.cycle_findings,
        architecture.depth_findings,
        architecture.file_map_findings,
        lambda root: architecture.size_findings(root, "rayrec", "jobs", "tests"),
    ],
    ids=["arrows", "ray", "configs", "cycles", "depth", "file map", "sizes"],
)
def test_the_tree_keeps_the_rules(check: Callable[[Path], list[str]]) -> None:
    assert check(ROOT) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("rayrec/data/a.py", "from rayrec.models.user import UserTower"),
        ("rayrec/models/a.py", "import rayrec.data.loader"),
        ("rayrec/train/a.py", "from rayrec.evaluate import report"),
        ("rayrec/export/a.py", "from rayrec.train.loop import run"),
        ("rayrec/evaluate/a.py", "def f():\n    from rayrec import stages"),
        ("rayrec/schema.py", "from rayrec.data.dataset import Dataset"),
        ("rayrec/catalogue.py", "from rayrec.serve import app"),
        ("rayrec/cli.py", "from jobs import train\nimport rayrec.nowhere"),
        ("rayrec/newroom.py", "import json"),
    ],
)
def test_an_import_against_the_arrows_is_found(path: str, line: str, tmp_path: Path) -> None:
    assert architecture.arrow_findings(plant(tmp_path, {path: line}))


def test_imports_along_the_arrows_are_fine(tmp_path: Path) -> None:
    files = {
        "rayrec/serve/a.py": "from rayrec.export.bundle import load_bundle\nfrom rayrec.serve.b import c",
        "rayrec/profiles.py": "from rayrec.text import profile_text",
        "jobs/a.py": "from rayrec.cli import main",
    }
    assert architecture.arrow_findings(plant(tmp_path, files)) == []


def test_ray_outside_its_places_is_found(tmp_path: Path) -> None:
    files = {
        "rayrec/data/loader.py": "def f():\n    from ray import data",
        "rayrec/data/prepare.py": "import ray",
        "rayrec/serve/client.py": "import ray.serve",
        "rayrec/text.py": "import rayleigh",
    }
    assert architecture.ray_findings(plant(tmp_path, files)) == [
        "rayrec/data/loader.py: imports ray",
        "rayrec/data/loader.py: imports ray.data",
        "rayrec/serve/client.py: imports ray.serve",
    ]


def test_a_heavy_config_and_a_full_init_are_found(tmp_path: Path) -> None:
    files = {
        "rayrec/__init__.py": "\n",
        "rayrec/config.py": "import yaml",
        "rayrec/data/config.py": "from pydantic import Field\nfrom rayrec.data.sources.config import A\nimport torch",
        "rayrec/data/__init__.py": "from rayrec.data.loader import Loader",
    }
    assert architecture.config_findings(plant(tmp_path, files)) == [
        "rayrec/data/__init__.py: not empty",
        "rayrec/data/config.py: imports torch",
    ]


def test_an_import_cycle_is_found(tmp_path: Path) -> None:
    files = {
        "rayrec/a.py": "from rayrec import b",
        "rayrec/b.py": "from rayrec.c import x",
        "rayrec/c.py": "def f():\n    import rayrec.a",
    }
    assert architecture.cycle_findings(plant(tmp_path, files)) == ["rayrec.a -> rayrec.b -> rayrec.c -> rayrec.a"]


def test_a_module_too_far_from_the_entry_is_found(tmp_path: Path) -> None:
    chain = {f"rayrec/m{number}.py": f"import rayrec.m{number + 1}" for number in range(5)}
    files = {"rayrec/cli.py": "import rayrec.m0", **chain, "rayrec/unused.py": ""}
    found = architecture.depth_findings(plant(tmp_path, files))
    assert [line.split(":")[0] for line in found] == ["rayrec.m4", "rayrec.unused"]


def test_what_is_too_large_is_found(tmp_path: Path) -> None:
    files = {
        "rayrec/long.py": "x = 1\n" * 300,
        "rayrec/function.py": "def f():\n" + "    x = 1\n" * 79,
        "rayrec/parameters.py": "def f(self, a, b, c, d, *, e, g, h, i, j):\n    pass\n",
        "rayrec/fine.py": "def f(self, a, b, c, d, *, e, g, h, i):\n" + "    x = 1\n" * 78,
    }
    assert architecture.size_findings(plant(tmp_path, files), "rayrec") == [
        "rayrec/function.py: f has 80 lines",
        "rayrec/long.py: 300 lines",
        "rayrec/parameters.py: f has 9 parameters",
    ]


def test_a_false_file_map_is_found(tmp_path: Path) -> None:
    readme = "# x\n## File map\n\n```\nrayrec/  the package\n  a.py   one\n  room/\n    gone.py  two\n```\n"
    files = {"README.md": readme, "rayrec/a.py": "", "rayrec/room/new.py": "", "rayrec/room/__init__.py": ""}
    root = plant(tmp_path, files)
    assert architecture.file_map(readme) == ["rayrec/", "rayrec/a.py", "rayrec/room/", "rayrec/room/gone.py"]
    assert architecture.file_map_findings(root) == [
        "rayrec/room/gone.py: in the README, not in the tree",
        "rayrec/room/new.py: not in the README's file map",
    ]


def test_the_readme_shows_the_commands_first() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert 0 < architecture.first_code_block_line(readme) <= 25
    assert {"make demo", "make test"} <= {line.split("  ")[0] for line in readme.splitlines()[:25]}
    assert "jobs/quickstart.py" in readme
    assert architecture.first_code_block_line("# x\n" * 30 + "```\n") == 31
    assert architecture.first_code_block_line("# x\n") == 0


def test_the_quickstart_is_short() -> None:
    assert len((ROOT / "jobs/quickstart.py").read_text(encoding="utf-8").splitlines()) <= QUICKSTART_LINES


def loaded_by(*names: str) -> list[str]:
    code = f"import sys, {', '.join(names)}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()


def test_light_modules_stay_light() -> None:
    light = ("schema", "config", "storage", "text", "profiles", "privacy", "tracking", "stages", "cli", "serve.client")
    assert loaded_by(*(f"rayrec.{name}" for name in light)) == []
    assert loaded_by("rayrec.models.user") == ["torch"]


def test_no_unit_test_can_start_ray() -> None:
    import ray

    with pytest.raises(AssertionError, match="move the test to tests/ray"):
        ray.init()


def test_a_warning_from_the_package_is_an_error() -> None:
    source = "import warnings\nwarnings.warn('old', DeprecationWarning)\n"
    with pytest.raises(DeprecationWarning):
        exec(source, {"__name__": "rayrec.data.loader"})
    with pytest.warns(DeprecationWarning, match="old"):
        exec(source, {"__name__": "elsewhere"})


def test_help_answers_within_a_second() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "from rayrec.cli import main; main(['--help'])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "recommend" in shown
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
