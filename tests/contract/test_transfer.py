"""What the language model knows must reach the recommender: text finds items that nobody has met, and only their own.

On logs whose tastes follow the topics of the texts, trained with the real language model. Shuffled among the items, the
same texts say nothing, and an ID says nothing of an item without interactions.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

from rayrec.data.config import DataConfig, SplitConfig
from rayrec.data.dataset import Dataset
from rayrec.evaluate.measure import measure, report_slices
from rayrec.models.config import ModelConfig
from rayrec.models.ranker import OF_ITEMS, load_ranker
from rayrec.storage import verify
from rayrec.train.config import StageConfig, TrainConfig
from tests.synthetic import SyntheticLogs, generate, published
from tests.workers import Run, settings, work

MODEL = ModelConfig(embedding_size=64, user_layers=1, max_tokens=32)
SCALED = StageConfig(name="scaled", learning_rates={"scales": 2e-2}, steps=60, validate_every=15)
FROZEN = StageConfig(
    name="frozen",
    start="scaled",
    learning_rates={"scales": 2e-3, "adapters": 3e-3},
    steps=60,
    validate_every=15,
)
ID_ONLY = StageConfig(
    name="id_only",
    use_text=False,
    learning_rates={"scales": 2e-2, "adapters": 1e-3, "id": 1e-2},
    steps=60,
    validate_every=15,
)
DATA = DataConfig(split=SplitConfig(held_out_valid=0.1, held_out_test=0.2))


def shuffled(logs: SyntheticLogs) -> SyntheticLogs:
    """The same logs with titles and texts dealt to other items."""
    order = np.random.default_rng(5).permutation(len(logs.items))
    items = logs.items
    for name in ("title", "text"):
        items = items.set_column(items.column_names.index(name), name, items[name].take(pa.array(order)))
    return replace(logs, items=items)


def measured(run: Run, data: Dataset, stage: str) -> dict[str, float]:
    """NDCG@10 among the test's held-out items, which training has never met; and mean losses at both ends."""
    weights = f"{run.settings.uri}/{stage}"
    verify(weights, "weights")
    ranker, rows = load_ranker(weights, data.stats()), data.rows("test")
    slices = {"cold": report_slices(rows, data.catalogue())["cold"]}
    ndcg_U = measure(ranker, rows, slices, k=10, users_per_block=256).metrics["cold"]["ndcg"]
    losses = run.losses(stage) or [np.nan]
    return {
        "cold": float(np.nanmean(ndcg_U)),
        "first_loss": float(np.mean(losses[:10])),
        "last_loss": float(np.mean(losses[-10:])),
    }


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """By system."""
    folder = tmp_path_factory.mktemp("transfer")
    logs = generate()
    loader = {"streams": 1, "slots_per_batch": 1600, "num_negatives": 64}
    data, runs = {}, {}
    text = (SCALED, FROZEN)
    for name, made, stages in (("true", logs, (*text, ID_ONLY)), ("shuffled", shuffled(logs), text)):
        data[name] = published(made, folder / name / "dataset", DATA)
        config = TrainConfig(stages=stages, zero_stage=0, warmup_steps=3)
        chosen = settings(data[name], folder / name, MODEL, config, **loader)
        runs[name] = Run(chosen, str(folder / name / "checkpoints"))
    assert work(list(runs.values()), 1) == [None, None]
    names = ("zero_shot", *(stage.name for stage in (*text, ID_ONLY)))
    found = {name: measured(runs["true"], data["true"], name) for name in names}
    found["shuffled"] = measured(runs["shuffled"], data["shuffled"], "frozen")
    other = published(generate(num_users=150, num_items=120, seed=1), folder / "other" / "dataset", DATA)
    start = f"{runs['true'].settings.uri}/frozen"
    untrained = TrainConfig(stages=(), zero_stage=0, start_from=start)
    abroad = Run(settings(other, folder / "other", MODEL, untrained, **loader), str(folder / "abroad"))
    assert work([abroad], 1) == [None]
    found["abroad"] = measured(abroad, other, "zero_shot")
    there, here = (load_file(f"{uri}/model.safetensors") for uri in (start, f"{abroad.settings.uri}/zero_shot"))
    differing = {name for name in there if not np.array_equal(there[name], here[name])}
    found["abroad"]["foreign tensors"] = len(differing - set(OF_ITEMS))
    found["abroad"]["ids"] = float(np.abs(here["fusion.ids.weight"]).sum())
    return found


@pytest.mark.parametrize("system", ["zero_shot", "scaled", "frozen"])
def test_text_beats_ids_on_items_that_nobody_has_met(systems: dict[str, dict[str, float]], system: str) -> None:
    assert systems[system]["cold"] > 0.35
    assert systems[system]["cold"] > systems["id_only"]["cold"] + 0.25


def test_training_learns_and_learns_more_of_the_true_texts(systems: dict[str, dict[str, float]]) -> None:
    assert systems["frozen"]["last_loss"] < systems["scaled"]["first_loss"] - 0.1
    assert systems["frozen"]["last_loss"] < systems["shuffled"]["last_loss"] - 0.1


def test_what_was_learnt_on_one_catalogue_serves_another(systems: dict[str, dict[str, float]]) -> None:
    assert systems["abroad"]["cold"] > 0.35
    assert systems["abroad"]["foreign tensors"] == systems["abroad"]["ids"] == 0


def test_with_the_texts_of_other_items_the_advantage_is_gone(systems: dict[str, dict[str, float]]) -> None:
    """A random order of the few held-out items has about 0.2."""
    assert systems["shuffled"]["cold"] < systems["frozen"]["cold"] - 0.15
