"""rayrec.cli and rayrec.stages: what a verb prints, what it exits with, and that a plan runs nothing."""

import json
import os
import shlex
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rayrec import cli, stages
from rayrec.cli import FAILURE, USER_MISTAKE, main
from rayrec.stages import RunConfig, ray_session
from rayrec.storage import publish
from rayrec.train.notices import InterruptedTraining
from tests.synthetic import generate, published

VERBS = ("prepare", "forget", "train", "evaluate", "export", "serve", "recommend")
NEEDED = {"forget": ["--user", "u7", "--into", "elsewhere"]}


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--help"])
    assert raised.value.code == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_prints_config_and_plan_and_runs_nothing(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    assert main([verb, *NEEDED.get(verb, []), "--set", f"run={run}", "--set", "seed=4", "--dry-run"]) == 0
    *resolved, last = capsys.readouterr().out.strip().split("\n")
    assert RunConfig.model_validate(yaml.safe_load("\n".join(resolved))) == RunConfig(run=run, seed=4)
    plan = json.loads(last)
    assert plan["stage"] == verb
    assert plan["dry_run"] is True
    assert not any(tmp_path.iterdir())


def test_a_plan_tells_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published(generate(num_users=20, num_items=20, num_interactions=300), tmp_path / "dataset")
    assert main(["train", "--set", f"run={tmp_path}", "--set", "train.num_workers=1000", "--dry-run"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    plan = json.loads(last)
    assert plan["reads"] == {str(tmp_path / "dataset"): True}
    assert plan["publishes"] == str(tmp_path / "weights")
    assert plan["published_already"] is False
    assert (plan["plan"]["id_table"]["rows"], plan["plan"]["unknown"]) == (20, [])
    assert any(line.startswith("# SHORTAGE: CPUs of this machine: ") and "1,000 needed" in line for line in lines)
    assert not (tmp_path / "weights").exists()


def test_the_last_line_of_stdout_is_json_and_all_else_is_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake_stage(config: RunConfig) -> dict[str, Any]:
        print("chatter of a library")
        return {"stage": "train", "published": config.weights}

    monkeypatch.setitem(cli.STAGES, "train", fake_stage)
    config = tmp_path / "my run.yaml"
    config.write_text("seed: 2\n")
    assert main(["train", "--config", str(config), "--set", f"run={tmp_path}"]) == 0
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert summary["published"] == str(tmp_path / "weights")
    assert "chatter" in shown.err
    for key, verb in (("again", "train"), ("next", "evaluate")):
        expected = ["rayrec", verb, "--config", str(config), "--set", f"run={tmp_path}"]
        assert shlex.split(summary[key]) == expected


def test_forgetting_names_the_user_nowhere_and_tells_where_it_looked_for_bundles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayrec.data import forget

    asked: list[tuple[Any, ...]] = []
    run, into = f"{tmp_path}/runs/a", f"{tmp_path}/runs b/c"

    def fake(*subject: str, **_: Any) -> dict[str, Any]:
        asked.append(subject)
        publish(f"{into}/dataset", "dataset", {}, ancestors=["ab"])
        return {"removed": {"histories": 1}, "found": 0}

    monkeypatch.setattr(forget, "forget", fake)
    monkeypatch.setattr(stages, "ray_session", nullcontext)
    publish(f"{tmp_path}/runs/x/bundle", "bundle", {}, dataset="ab")
    plain = ["--set", f"run={run}", "--set", "data.privacy.user_ids=plain"]
    assert main(["forget", *plain, "--user", "u-77", "--into", into]) == 0
    assert asked == [(f"{run}/dataset", f"{into}/dataset", "u-77")]
    shown = capsys.readouterr()
    assert "u-77" not in shown.out + shown.err
    summary = json.loads(shown.out)
    assert (summary["published"], summary["found"]) == (f"{into}/dataset", 0)
    assert summary["bundles"] == [f"{tmp_path}/runs/x/bundle"]
    assert shlex.split(summary["again"]) == ["rayrec", "forget", *plain, "--into", into, "--user", "ID"]
    assert shlex.split(summary["next"]) == ["rayrec", "train", *plain, "--set", f"run={into}"]
    assert main(["forget", *plain, "--user", "u-77", "--into", into, "--bundles", into]) == 0
    assert json.loads(capsys.readouterr().out)["bundles"] == []
    assert main(["forget", *plain, "--user", "u-77", "--into", into, "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (list(plan["reads"]), plan["publishes"]) == ([f"{run}/dataset"], f"{into}/dataset")


def test_a_served_endpoint_is_announced_before_it_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def fake_serve(config: RunConfig, announce: Callable[[dict[str, Any]], None]) -> None:
        announce({"stage": "serve", "published": "http://127.0.0.1:1"})
        seen.append(capsys.readouterr().out)

    monkeypatch.setattr(stages, "serve", fake_serve)
    assert main(["serve"]) == 0
    assert json.loads(seen[0])["next"].startswith("rayrec recommend --url http://127.0.0.1:1 ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "--set", "sede=1"], "rayrec prepare: unknown config key 'sede'; did you mean 'seed'?"),
        (["train", "--config", "nowhere.yaml"], "rayrec train: no config file at 'nowhere.yaml'"),
        (["recommend", "1", "--url", "http://127.0.0.1:9"], "start the endpoint with `rayrec serve`"),
        (["export", "--set", "run=http://x"], "rayrec export: the URI 'http://x' has the scheme 'http'"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == USER_MISTAKE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("broken"), ValueError("operands could not be broadcast")])
def test_any_other_failure_shows_its_traceback(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(config: RunConfig) -> dict[str, Any]:
        raise error

    monkeypatch.setitem(cli.STAGES, "train", fail)
    assert main(["train"]) == FAILURE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" in shown.err
    assert str(error) in shown.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_training_that_a_signal_ends_tells_how_to_go_on(
    number: int, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(config: RunConfig) -> dict[str, Any]:
        raise InterruptedTraining(number, "stopped, with a checkpoint,")

    monkeypatch.setitem(cli.STAGES, "train", interrupted)
    assert main(["train", "--set", "run=my runs/a"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        f"rayrec train: stopped, with a checkpoint, on {signal.Signals(number).name}; to go on: "
        "rayrec train --set 'run=my runs/a'\n"
    )


def test_a_librarys_value_error_under_our_code_is_no_mistake_of_the_user(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(config: RunConfig) -> dict[str, Any]:
        return {"sum": np.array(np.random.default_rng(0).choice([], 1))}

    monkeypatch.setitem(cli.STAGES, "train", fail)
    assert main(["train"]) == FAILURE
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("/srv/rayrec/data/clean.py", USER_MISTAKE),
        ("/srv/rayrec/.venv/lib/site-packages/rayrec/data/clean.py", USER_MISTAKE),
        ("/srv/rayrec/.venv/lib/site-packages/numpy/core.py", FAILURE),
    ],
)
def test_a_refusal_in_a_ray_task_is_a_users_mistake_too(
    file: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.exceptions import RayTaskError

    def fail(config: RunConfig) -> dict[str, Any]:
        cause = ValueError("12 of 20 rows have no item;\nmap another column")
        remote = f'ray::job()\n  File "/usr/lib/ray/worker.py", line 1\n  File "{file}", line 3\nValueError: 12 of 20'
        raise RayTaskError("job", remote, cause).as_instanceof_cause()

    monkeypatch.setitem(cli.STAGES, "prepare", fail)
    assert main(["prepare"]) == code
    shown = capsys.readouterr().err
    if code == USER_MISTAKE:
        assert shown == "rayrec prepare: 12 of 20 rows have no item; map another column\n"
    else:
        assert "Traceback" in shown


def test_recommend_shows_a_table_then_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from rayrec.serve import client

    def answer(url: str, **request: Any) -> dict[str, Any]:
        assert (url, request["history"], request["k"]) == ("http://127.0.0.1:8000", ["5", "7"], 3)
        item = {"item_id": "9", "title": "Heat (1995)", "score": 1.5, "like_probability": 0.75}
        return {"items": [item], "unknown_items": ["7"], "model": {}}

    monkeypatch.setattr(client, "recommend", answer)
    assert main(["recommend", "5", "7", "--k", "3"]) == 0
    shown = capsys.readouterr()
    head, row, last = shown.out.splitlines()
    assert head.split()[-1] == "title"
    assert row.endswith("Heat (1995)")
    assert json.loads(last)["items"][0]["item_id"] == "9"
    assert "ignored: 7" in shown.err


def test_artifacts_lie_under_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig(run="runs/a")
    assert config.dataset == str(tmp_path / "runs/a/dataset")
    assert RunConfig(run="s3://bucket/a").bundle == "s3://bucket/a/bundle"


def test_a_ray_session_joins_what_runs_and_starts_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **options: calls.append(options))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append({}))
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    with ray_session(num_cpus=3):
        assert calls == [{"address": "local", "include_dashboard": False, "num_cpus": 3}]
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert calls.pop() == {}
    monkeypatch.setenv("RAY_ADDRESS", "ray-head:6379")
    with ray_session():
        assert calls[-1] == {"address": "ray-head:6379"}
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    calls.clear()
    with ray_session():
        pass
    assert calls == []
