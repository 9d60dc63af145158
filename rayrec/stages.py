"""The stages of a run: each takes a RunConfig, calls its room, and says in a dictionary what was published.

Rooms are imported inside the functions that run them, so that configs and `--help` need neither torch nor ray.
"""

import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rayrec import storage
from rayrec.data.config import DataConfig, LoaderConfig
from rayrec.evaluate.config import EvaluateConfig
from rayrec.models.config import ModelConfig
from rayrec.serve.config import ServeConfig
from rayrec.train.config import TrainConfig
from rayrec.tune.config import TuneConfig

if TYPE_CHECKING:
    from rayrec.train.plan import Resources

TRAINING = ("data", "loader", "model", "train")
Summary = dict[str, Any]


class RunConfig(BaseModel):
    """Everything that determines a run; its artifacts lie under `run`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = Field("runs/default", min_length=1)
    seed: int = Field(0, ge=0)
    data: DataConfig = DataConfig()
    loader: LoaderConfig = LoaderConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export_stage: str = "text_id"
    tune: TuneConfig = TuneConfig()
    serve: ServeConfig = ServeConfig()

    @model_validator(mode="after")
    def _export_stage_is_trained(self) -> Self:
        names = self.train.systems()
        if self.export_stage not in names:
            raise ValueError(f"export_stage is {self.export_stage!r}; expected one of {', '.join(names)}")
        return self

    @property
    def dataset(self) -> str:
        """URI of the prepared data."""
        return self._under("dataset")

    @property
    def weights(self) -> str:
        """URI of the trained stages."""
        return self._under("weights")

    @property
    def search(self) -> str:
        """URI of the search over its settings."""
        return self._under("search")

    @property
    def found(self) -> str:
        """URI of what the search found."""
        return storage.join(self.search, "result")

    @property
    def report(self) -> str:
        """URI of the evaluation."""
        return self._under("report")

    @property
    def bundle(self) -> str:
        """URI of what is served."""
        return self._under("bundle")

    def _under(self, name: str) -> str:
        return storage.join(storage.absolute(self.run), name)


@contextmanager
def ray_session(**options: Any) -> Iterator[None]:
    """Ray for the block: the one that runs already, or the cluster at RAY_ADDRESS, or this machine until its end.

    A local Ray asks for a token as any other does; where the environment names none, one is drawn for this process, so
    that nothing is written into the home directory.

    Args:
        options: for ray.init, where Ray is started here.
    """
    # Else a thread that a signal has left behind would start another Ray after the end of this one.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    if address != "local":
        options = {}  # a running cluster has its own
    else:
        options = {"include_dashboard": False, **options}
        if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    ray.init(address=address, **options)
    try:
        yield
    finally:
        ray.shutdown()


def prepare(config: RunConfig) -> Summary:
    """Logs to a dataset."""
    from rayrec.data.job import prepare as run_prepare
    from rayrec.data.prepare import on_ray

    with ray_session():
        made = run_prepare(
            config.data, config.dataset, seed=config.seed, provenance=_provenance(config, "data"), run=on_ray
        )
    return {"stage": "prepare", "published": config.dataset, "counts": made["counts"], "cutoffs": made["cutoffs"]}


def forget(config: RunConfig, user: str, into: str, bundles: str | None = None) -> Summary:
    """The run's dataset to one without a user, in another run; tells what else may still hold that user.

    Nothing of that is removed: `datasets` (the old one and the versions before it), `weights` and `bundles` trained on
    them, and what is `not_looked_at`.

    Args:
        config: of the run.
        user: id as in the logs.
        into: URI of the other run.
        bundles: URI of a folder of runs whose weights and bundles are looked at; by default the one the run lies in.
    """
    from rayrec.data.forget import NOT_LOOKED_AT, datasets_before, trained_on
    from rayrec.data.forget import forget as run_forget
    from rayrec.data.prepare import on_ray
    from rayrec.privacy import privacy_of

    names = config.data.privacy
    privacy = privacy_of(names.user_ids, names.key_env, False, ())
    published = config.model_copy(update={"run": into}).dataset
    with ray_session():
        done = run_forget(config.dataset, published, user, privacy=privacy, run=on_ray)
    folder = bundles or storage.absolute(config.run).rstrip("/").rpartition("/")[0]
    datasets = datasets_before(config.dataset)
    trained = trained_on(config.run, folder, datasets, storage.manifest(published, "dataset")["ancestors"])
    others = {"datasets": datasets, **trained, "not_looked_at": NOT_LOOKED_AT}
    return {"stage": "forget", "published": published, **done, **others}


def train(config: RunConfig) -> Summary:
    """A dataset to the weights of every training stage; goes on from the last checkpoint of the same run."""
    from rayrec.train.trainer import train as run_train

    with ray_session():
        made = run_train(
            config.dataset,
            config.weights,
            model=config.model,
            loader=config.loader,
            config=config.train,
            seed=config.seed,
            provenance=_provenance(config, *TRAINING),
        )
    return {
        "stage": "train",
        "published": config.weights,
        "validation": made["validation"],
        "kept": made["kept"],
    }


def plan_training(config: RunConfig) -> tuple[Summary, list[str]]:
    """What train would take, and the same in lines to be read; starts no Ray, trains nothing, writes nothing."""
    from rayrec.train.plan import plan, plan_lines, this_machine

    address = os.environ.get("RAY_ADDRESS", "local")
    resources = this_machine() if address == "local" else _of_cluster(address)
    made = plan(config.dataset, model=config.model, loader=config.loader, config=config.train, resources=resources)
    return made, plan_lines(made)


def _of_cluster(address: str) -> "Resources":
    """What the running cluster has that train would join; nothing is known of one that does not answer."""
    import ray

    from rayrec.train.plan import Resources

    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=5).close()
        with ray_session():
            found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    except OSError:
        return Resources(f"the Ray cluster at {address}, which does not answer", None, None, None, None)
    memory = int(found["memory"]) if "memory" in found else None
    return Resources(f"the Ray cluster at {address}", found.get("CPU", 0.0), found.get("GPU", 0.0), memory, None)


def tune(config: RunConfig) -> Summary:
    """A dataset to a config with better settings by validation, best.yaml; goes on with an earlier command's trials."""
    from rayrec.tune.search import search

    with ray_session():
        found = search(
            config.dataset,
            config.search,
            config=config.model_dump(mode="json"),
            how=config.tune,
            stage=config.export_stage,
        )
    return {"stage": "tune", "published": config.found, **found}


def plan_tuning(config: RunConfig) -> Summary:
    """What tune would search; starts no Ray, trains nothing, writes nothing."""
    from rayrec.tune.space import plan_of

    settings, space = plan_of(config.model_dump(mode="json"), config.tune, config.export_stage)
    drawn = {key: one.model_dump(mode="json") for key, one in space.items()}
    return {"stages": [stage.name for stage in settings.train.stages], "space": drawn}


def evaluate(config: RunConfig) -> Summary:
    """Weights and a dataset to a report, shown as a table on stderr: before and after, beside the baselines."""
    from rayrec.evaluate.evaluator import evaluate as run_evaluate
    from rayrec.evaluate.report import means, table_text

    with ray_session() if config.evaluate.on_ray else nullcontext():
        report = run_evaluate(
            config.dataset,
            config.weights,
            config.report,
            config=config.evaluate,
            seed=config.seed,
            provenance=_provenance_after_training(config, "evaluate"),
        )
    print(table_text(report), file=sys.stderr)
    return {
        "stage": "evaluate",
        "published": config.report,
        "auc": means(report, "all", "auc"),
        f"ndcg{config.evaluate.k}": means(report, "all", "ndcg"),
        f"cold_ndcg{config.evaluate.k}": means(report, "cold", "ndcg"),
    }


def export(config: RunConfig) -> Summary:
    """The weights of `export_stage` to a bundle; a report that is there goes with it."""
    from rayrec.export.bundle import export as run_export

    run_export(
        config.dataset,
        config.weights,
        config.bundle,
        stage=config.export_stage,
        report=config.report if storage.is_published(config.report) else None,
        provenance=_provenance_after_training(config, "export_stage"),
    )
    return {"stage": "export", "published": config.bundle, "exported": config.export_stage}


def serve(config: RunConfig, announce: Callable[[Summary], None]) -> None:
    """A bundle to an HTTP endpoint that answers until SIGINT or SIGTERM.

    Args:
        config: of the run.
        announce: called with the summary as soon as the endpoint answers.
    """
    from rayrec.serve.app import serve_forever

    storage.manifest(config.bundle, "bundle")
    with ray_session():
        serve_forever(
            config.bundle,
            config.serve,
            lambda url: announce({"stage": "serve", "published": url, "bundle": config.bundle}),
        )


def _provenance_after_training(config: RunConfig, section: str) -> dict[str, Any]:
    """Of an artifact made from weights: the config they were trained with, not this command's, and one section."""
    trained = storage.manifest(config.weights, "training")["config"]
    return storage.provenance({**trained, **config.model_dump(mode="json", include={section})})


def _provenance(config: RunConfig, *sections: str) -> dict[str, Any]:
    """Of an artifact that only these sections of the config determine."""
    return storage.provenance(config.model_dump(mode="json", include={"seed", *sections}))
