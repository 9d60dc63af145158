"""The command line: one verb a stage, which loads its config, calls its stage and prints what was published."""

import argparse
import json
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

import yaml

from rayrec import stages, storage
from rayrec.config import is_refusal, load_config
from rayrec.stages import RunConfig
from rayrec.train.notices import InterruptedTraining

STAGES: dict[str, Callable[[RunConfig], dict[str, Any]]] = {
    "prepare": stages.prepare,
    "tune": stages.tune,
    "train": stages.train,
    "evaluate": stages.evaluate,
    "export": stages.export,
}
READS = {
    "prepare": (),
    "forget": ("dataset",),
    "tune": ("dataset",),
    "train": ("dataset",),
    "evaluate": ("dataset", "weights"),
    "export": ("dataset", "weights", "report"),
    "serve": ("bundle",),
}
PUBLISHES = {
    "prepare": "dataset",
    "forget": "dataset",
    "tune": "found",
    "train": "weights",
    "evaluate": "report",
    "export": "bundle",
}
NEXT = {"prepare": "train", "train": "evaluate", "evaluate": "export", "export": "serve"}
USER_MISTAKE, FAILURE = 2, 1

_TRACED_FILE = re.compile(r'File "([^"]+)"')
_OUR_FILE = re.compile(r"/rayrec/(?!.*site-packages)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Args:
        arguments: the command line without the program; sys.argv's by default.

    Returns:
        The exit code: 0, 2 for a mistake of the user (one line on stderr), 1 for any other failure (a traceback), 130
        or 143 for a training that SIGINT or SIGTERM has ended (the command that goes on with it, on stderr).
    """
    options = _parser().parse_args(arguments)
    try:
        config = load_config(RunConfig, options.config, options.set)
        if options.dry_run:
            _print_plan(options.verb, config, getattr(options, "into", None))
        elif options.verb == "recommend":
            _recommend(config, options)
        else:
            _run_stage(config, options)
    except ValueError as error:
        if not _raised_by_rayrec(error):
            traceback.print_exc()
            return FAILURE
        print(f"rayrec {options.verb}: {_one_line(error)}", file=sys.stderr)
        return USER_MISTAKE
    except InterruptedTraining as end:
        print(f"rayrec {options.verb}: {end}; to go on: {_command(options.verb, options)}", file=sys.stderr)
        return end.exit_code
    except Exception:
        traceback.print_exc()
        return FAILURE
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rayrec",
        description="Moves what a language model knows into a recommender. Progress goes to stderr; the last line of "
        "stdout is one JSON object that says what was published and which command comes next.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    about = {
        "prepare": "logs to a dataset",
        "forget": "a dataset to one without a user, in another run, with the proof that nothing of the user is left",
        "tune": "a dataset to a config with better settings, by a search over trainings, judged by validation",
        "train": "a dataset to the weights of every training stage",
        "evaluate": "weights to a report, before and after the transfer, beside the baselines",
        "export": "the weights of one stage to a bundle that can be served",
        "serve": "a bundle to an HTTP endpoint, until it is interrupted",
        "recommend": "asks a running endpoint for one user's recommendations",
    }
    for verb, description in about.items():
        command = verbs.add_parser(verb, help=description, description=description)
        command.add_argument("--config", metavar="FILE", help="YAML file; defaults where it is absent")
        command.add_argument(
            "--set", metavar="KEY=VALUE", action="append", default=[], help="overrides one config key; repeatable"
        )
        command.add_argument(
            "--dry-run", action="store_true", help="prints the resolved config and the plan, and stops"
        )
        if verb == "forget":
            command.add_argument("--user", metavar="ID", required=True, help="as in the logs; it is printed nowhere")
            command.add_argument("--into", metavar="RUN", required=True, help="run folder of the new dataset")
            command.add_argument(
                "--bundles", metavar="URI", help="folder of runs whose weights and bundles are looked at"
            )
        if verb == "recommend":
            command.add_argument(
                "history", metavar="ITEM_ID", nargs="*", help="what the user interacted with, in order"
            )
            command.add_argument("--profile", default="", help="a sentence about the user")
            command.add_argument("--k", type=int, default=10, help="how many items")
            command.add_argument("--url", help="of the endpoint; serve.host and serve.port of the config by default")
    return parser


def _run_stage(config: RunConfig, options: argparse.Namespace) -> None:
    out = sys.stdout

    def announce(summary: dict[str, Any]) -> None:
        again = _command(options.verb, options)
        print(json.dumps({**summary, "next": _next(summary, options), "again": again}), file=out, flush=True)

    # Ray prints what its workers print; stdout is kept for the summary.
    with redirect_stdout(sys.stderr):
        if options.verb == "serve":
            stages.serve(config, announce)
        elif options.verb == "forget":
            announce(stages.forget(config, options.user, options.into, options.bundles))
        else:
            announce(STAGES[options.verb](config))


def _next(summary: dict[str, Any], options: argparse.Namespace) -> str:
    if options.verb == "serve":
        return shlex.join(["rayrec", "recommend", "--url", summary["published"], "--profile", "likes comedies"])
    if options.verb == "forget":
        return f"{_command('train', options)} --set {shlex.quote(f'run={options.into}')}"
    if options.verb == "tune":
        return shlex.join(["rayrec", "train", "--config", storage.join(summary["published"], "best.yaml")])
    return _command(NEXT[options.verb], options)


def _command(verb: str, options: argparse.Namespace) -> str:
    words = ["rayrec", verb]
    if options.config is not None:
        words += ["--config", options.config]
    for override in options.set:
        words += ["--set", override]
    if verb == "forget":
        words += ["--into", options.into, "--user", "ID"]
    return shlex.join(words)


def _print_plan(verb: str, config: RunConfig, into: str | None) -> None:
    print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")
    plan: dict[str, Any] = {"stage": verb, "dry_run": True}
    if verb in READS:
        plan["reads"] = {uri: storage.is_published(uri) for uri in (getattr(config, name) for name in READS[verb])}
    if verb in PUBLISHES:
        uri = getattr(config.model_copy(update={"run": into}) if into else config, PUBLISHES[verb])
        plan |= {"publishes": uri, "published_already": storage.is_published(uri)}
    if verb == "train":
        with redirect_stdout(sys.stderr):  # libraries greet
            plan["plan"], lines = stages.plan_training(config)
        print("".join(f"# {line}\n" for line in lines), end="")
    if verb == "tune":
        plan["plan"] = stages.plan_tuning(config)
    if verb in ("serve", "recommend"):
        plan["url"] = _url(config)
    print(json.dumps(plan))


def _url(config: RunConfig) -> str:
    return f"http://{config.serve.host}:{config.serve.port}"


def _recommend(config: RunConfig, options: argparse.Namespace) -> None:
    from rayrec.serve.client import recommend

    url = options.url or _url(config)
    token = os.environ.get(config.serve.token_env)
    answer = recommend(url, history=options.history, profile=options.profile, k=options.k, token=token)
    print(f"{'item':<12} {'score':>8} {'P(like)':>8}  title")
    for item in answer["items"]:
        print(f"{item['item_id']:<12} {item['score']:>8.3f} {item['like_probability']:>8.3f}  {item['title']}")
    if answer["unknown_items"]:
        print(f"not in the catalogue, ignored: {', '.join(answer['unknown_items'])}", file=sys.stderr)
    print(json.dumps({"stage": "recommend", "url": url, **answer}))


def _raised_by_rayrec(error: ValueError) -> bool:
    """Whether our own code refused something; a ValueError from inside a library is a failure to be shown whole."""
    if hasattr(error, "cause"):  # Ray's: raised in a task, whose traceback is part of the message
        files = _TRACED_FILE.findall(str(error))
        return bool(files) and _OUR_FILE.search(files[-1]) is not None
    return is_refusal(error)


def _one_line(error: ValueError) -> str:
    return " ".join(str(getattr(error, "cause", error)).split())
