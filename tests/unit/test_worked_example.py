"""The worked example of CONTRIBUTING.md, carried out on a copy of the tree: it works, and touches two files a thing."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEP = re.compile(
    r"`(rayrec/\S+\.py)`, (before|in place of|at its end)(?: `([^`\n]+)`)?:\n\n```python\n(.*?)```", re.DOTALL
)
REPORT = """
import json, sys
from pathlib import Path
from rayrec.data.dataset import Dataset
from rayrec.evaluate import report
from rayrec.evaluate.evaluator import measure_baselines
from rayrec.evaluate.measure import report_slices
from rayrec.tracking import Progress
from tests.unit.test_evaluator import CONFIG, publish, tables

data = Dataset(publish(Path(sys.argv[1]), tables()))
rows = data.rows("test")
slices = report_slices(rows, data.catalogue())
config = CONFIG.model_copy(update={"k": 10, "comparisons": (("tfidf", "long_tail"),)})
with Progress("evaluate", 99, "system") as progress:
    measured, _, _ = measure_baselines(data, rows, slices, config, progress)
made = report.build(measured, slices, log_odds=(), config=config, seed=0, about={})
print(json.dumps(made))
"""


def run(tree: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with every step carried out."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("rayrec", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for path, where, anchor, code in STEP.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        text = (folder / path).read_text(encoding="utf-8")
        assert not anchor or text.count(anchor) == 1, f"{path} has {text.count(anchor)} times {anchor!r}"
        changed = {"before": code + anchor, "in place of": code.rstrip("\n"), "at its end": ""}[where]
        text = text.replace(anchor, changed) if anchor else text + code
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def test_two_files_each() -> None:
    steps = STEP.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(steps) == 5
    assert [len({path for path, *_ in part}) for part in (steps[:2], steps[2:])] == [2, 2]


def test_metric_and_scorer_are_in_the_report(tree: Path, tmp_path: Path) -> None:
    report = json.loads(run(tree, "-c", REPORT, str(tmp_path / "dataset")).splitlines()[-1])
    words, tail = (report["systems"][name]["all"]["hit_rate"]["mean"] for name in ("tfidf", "long_tail"))
    assert 0 <= tail < words <= 1
    (found,) = (one for one in report["differences"] if (one["slice"], one["metric"]) == ("all", "hit_rate"))
    assert found["mean"] == pytest.approx(words - tail, abs=1e-5)


def test_the_scorer_holds_the_contract(tree: Path) -> None:
    assert "passed" in run(
        tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contract/test_scorers.py", "-k", "long_tail"
    )
