"""One data set from its logs to the report: every baseline, every control, intervals over users.

The config of the set in jobs/configs says what is prepared; nothing else of it is looked at. All sets have one budget:
that of the demo. What is published below `--work` is used again, so a run that was stopped goes on where it was.

    python benchmarks/quality.py amazon-industrial --data FOLDER   # writes results/quality-amazon-industrial.json
    python benchmarks/quality.py movielens-100k --seeds 0 1 2
"""

import argparse
import contextlib
import json
import platform
import time
from pathlib import Path
from typing import Any

from data import git, machine
from datasets import CONFIGS, LINK, missing_files
from general_text import data_folder, pairs_of
from pyarrow import parquet

from rayrec import stages
from rayrec.config import load_config
from rayrec.evaluate.report import join_seeds
from rayrec.stages import RunConfig
from rayrec.storage import is_published, join, manifest, provenance, read_json

HERE = Path(__file__).parent
GENERAL_TEXT = "general_text.parquet"
SLICES = ("all", "warm", "cold", "cold_history", "cold_in_all", "no_history")
COMPARED = ("all", "warm", "cold", "cold_in_all")
METRICS = ("ndcg", "recall", "mrr", "auc", "gauc", "log_loss", "calibration_error", "coverage", "popularity_bias")
BUDGET = (
    "loader.streams=2",
    "loader.slots_per_batch=800",
    "train.controls=[random_weights, shuffled_texts]",
    "train.precision=fp32",
    "evaluate.max_users=10000",
    f"evaluate.general_text={GENERAL_TEXT}",
)

Result = dict[str, Any]


def one_seed(name: str, run: str, seed: int, extra: list[str]) -> Result:
    """Runs what is not published yet and returns the report, with the seconds that each stage took when it ran.

    Args:
        name: of the config.
        run: of the result.
        seed: of the whole run: split, training, bootstrap.
        extra: further overrides of the config.
    """
    overrides = [*BUDGET, f"run={run}-seed{seed}", f"seed={seed}", *extra]
    config = load_config(RunConfig, str(CONFIGS / f"{name}.yaml"), overrides)
    clock = Path(config.run) / "seconds.json"
    seconds: dict[str, float] = json.loads(clock.read_text()) if clock.exists() else {}
    steps = ((stages.prepare, config.dataset), (stages.train, config.weights), (stages.evaluate, config.report))
    for stage, published in steps:
        began, new = time.perf_counter(), not is_published(published)
        stage(config)  # of what is published it takes that, or refuses where it was made otherwise
        if new:
            seconds[stage.__name__] = round(time.perf_counter() - began, 1)
            clock.write_text(json.dumps(seconds))
    return {
        **read_json(join(config.report, "report.json")),
        "seconds": seconds,
        "kept": manifest(config.weights, "training")["kept"],
        "config": config.model_dump(mode="json"),
    }


def selected(report: Result) -> Result:
    """The figures and differences that are kept, of one report or of several joined."""
    return {
        "systems": {
            system: {name: {metric: by_slice[name].get(metric) for metric in METRICS} for name in SLICES}
            for system, by_slice in report["systems"].items()
        },
        "differences": [one for one in report["differences"] if one["slice"] in COMPARED and one["metric"] != "gauc"],
    }


def short(report: Result) -> Result:
    """What the table shows of a report, and what it was made with."""
    return {
        "seed": report["seed"],
        "seconds": report["seconds"],
        "kept": report["kept"],
        "counts": report["counts"],
        "cutoffs": report["cutoffs"],
        "left_out": report["left_out"],
        "baselines": {name: made["setting"] for name, made in report["baselines"].items()},
        "general_text": report.get("general_text"),
        "users": {name: report["systems"][report["order"][0]][name]["users"] for name in SLICES},
        **selected(report),
    }


def over_seeds(reports: list[Result]) -> Result:
    """Mean and standard deviation over seeds of what the table shows."""
    joined = join_seeds(reports)
    return {"seeds": joined["seeds"], **selected(joined)}


def main() -> None:
    """Runs, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="the name of a config in jobs/configs")
    parser.add_argument("--data", type=Path, default=Path(LINK), help="holds the folders of the sets")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="where runs are published")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--name", help="of the result, where it is not the set's")
    parser.add_argument("--set", action="append", default=[], help="overrides of the config")
    options = parser.parse_args()
    work, folder = options.work.resolve(), options.data.resolve()
    work.mkdir(parents=True, exist_ok=True)
    name = options.name or options.dataset
    began = time.perf_counter()
    with contextlib.chdir(work):
        if folder.is_dir() and not Path(LINK).exists():
            Path(LINK).symlink_to(folder)
        config = load_config(RunConfig, str(CONFIGS / f"{options.dataset}.yaml"))
        if missing := missing_files(config, Path(LINK)):
            raise SystemExit(
                f"{options.dataset} wants {', '.join(missing)}; put them there, or name their folder with --data"
            )
        if not Path(GENERAL_TEXT).exists():
            parquet.write_table(pairs_of(data_folder()), GENERAL_TEXT)
        with stages.ray_session(object_store_memory=500_000_000):
            reports = [one_seed(options.dataset, name, seed, options.set) for seed in options.seeds]
    result = {
        "question": f"what the transfer brings on {name}, beside simple baselines and controls",
        "commit": git("rev-parse", "HEAD"),
        "changed_since_commit": bool(
            git("status", "--porcelain", "--", ":/rayrec", ":/benchmarks/*.py", ":/jobs/configs")
        ),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **provenance({})["packages"]},
        "dataset": name,
        "config": reports[0]["config"],
        "protocol": reports[0]["protocol"],
        "k": reports[0]["k"],
        "order": reports[0]["order"],
        "by_seed": [short(report) for report in reports],
        "over_seeds": over_seeds(reports) if len(reports) > 1 else None,
        "seconds_of_this_call": round(time.perf_counter() - began, 1),
    }
    path = HERE / "results" / f"quality-{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"written": path.name, "seconds": [report["seconds"] for report in reports]}))


if __name__ == "__main__":
    main()
