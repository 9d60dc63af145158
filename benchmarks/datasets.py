"""Prepares every data set that has a config in jobs/configs, and tells what became of each row.

The configs name files in folders below `data/`; the folder given here stands in for that one. A set whose files are not
there is told as absent. Everything runs in this process, without Ray.

    python benchmarks/datasets.py --data FOLDER                  # all of them -> results/datasets.json
    python benchmarks/datasets.py --data FOLDER --config bad-ads # one, printed and not written
    python benchmarks/table.py                                   # the tables of README.md
"""

import argparse
import contextlib
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

from data import git, machine

from rayrec.config import load_config
from rayrec.data.job import prepare
from rayrec.data.sources.listing import named_uris
from rayrec.data.work import in_process
from rayrec.stages import RunConfig
from rayrec.storage import fingerprint, provenance

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "jobs" / "configs"
LINK = "data"
"""Below which the configs name their files."""

Result = dict[str, Any]


def missing_files(config: RunConfig, folder: Path) -> list[str]:
    """Files and folders that a config names and that are not there.

    Args:
        config: of the set.
        folder: stands in for `data/`.
    """
    local = [uri for uri in named_uris(config.data.source) if "://" not in uri]
    return [uri for uri in local if not (folder / Path(uri).relative_to(LINK)).exists()]


def prepared(config: RunConfig, folder: Path) -> Result:
    """What a set's rows became; the same wherever its files lie.

    Args:
        config: of the set.
        folder: stands in for `data/`.
    """
    told = config.model_dump(mode="json", include={"seed", "data"})
    with tempfile.TemporaryDirectory() as work, contextlib.chdir(work):
        Path(LINK).symlink_to(folder)
        began = time.perf_counter()
        made = prepare(config.data, "dataset", seed=config.seed, provenance=provenance(told), run=in_process)
        seconds = time.perf_counter() - began
        return {
            "config": told,
            "seconds": round(seconds, 2),
            "num_items": made["num_items"],
            "counts": made["counts"],
            "cutoffs": made["cutoffs"],
            "order_only": made["order_only"],
            "warnings": made["warnings"],
            "manifest_sha256": fingerprint("dataset", "dataset"),
        }


def main() -> None:
    """Prepares and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(LINK), help="holds the folders of the sets")
    parser.add_argument("--config", help="the name of one config")
    options = parser.parse_args()
    folder = options.data.resolve()
    if not folder.is_dir():
        raise SystemExit(f"{folder} is no folder; expected one that holds the sets' folders: name it with --data")
    names = [options.config] if options.config else sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    configs = {name: load_config(RunConfig, str(CONFIGS / f"{name}.yaml")) for name in names}
    missing = {name: missing_files(config, folder) for name, config in configs.items()}
    sets = {name: prepared(config, folder) for name, config in configs.items() if not missing[name]}
    result = {
        "question": "what becomes of every row of every data set that has a config",
        "commit": git("rev-parse", "HEAD"),
        "changed_since_commit": bool(
            git("status", "--porcelain", "--", ":/rayrec", ":/benchmarks/*.py", ":/jobs/configs")
        ),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **provenance({})["packages"]},
        "absent": {name: files for name, files in missing.items() if files},
        "sets": sets,
    }
    text = json.dumps(result, indent=1) + "\n"
    if options.config:
        print(text)
        return
    path = HERE / "results" / "datasets.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    print(json.dumps({name: made["counts"]["interactions"]["kept"] for name, made in sets.items()}))


if __name__ == "__main__":
    main()
