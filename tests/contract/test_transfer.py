"""What the language model knows must reach the recommender, and each control must fall where theory says.

Trained with the real language model on logs whose tastes follow topics. At home the items share meaning and no word:
random weights and dealt-out texts relate nothing there, and an ID says nothing of an item without interactions. Abroad,
on another catalogue, items share phrases, for which a bag of words will do, and that is what random weights are.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

from rayrec.data.config import DataConfig, SplitConfig
from rayrec.data.dataset import Dataset
from rayrec.evaluate.measure import measure, report_slices
from rayrec.models.config import ModelConfig
from rayrec.models.encoder import load_language_model
from rayrec.models.ranker import OF_ITEMS, load_ranker
from rayrec.schema import Batch, Scorer
from rayrec.storage import verify
from rayrec.terms import words_of
from rayrec.text import item_texts
from rayrec.train.config import StageConfig, TrainConfig
from tests.meanings import in_words
from tests.synthetic import FORMATS, generate, published
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
    control="id_only",
    learning_rates={"scales": 2e-2, "adapters": 1e-3, "id": 1e-2},
    steps=60,
    validate_every=15,
)
TEXT = ("zero_shot", "scaled", "frozen")
DATA = DataConfig(split=SplitConfig(held_out_valid=0.1, held_out_test=0.2))
LOADER = {"streams": 1, "slots_per_batch": 1600, "num_negatives": 64}
DRAWS = 20

Figures = dict[str, dict[str, float]]
"""By system, and of a random order, mean NDCG@10 by slice; `cold` are held-out items, which training has never met."""


@dataclass(frozen=True)
class Trained:
    """A data set, the run on it, and what its systems reach on the test."""

    data: Dataset
    run: Run
    figures: Figures


class RandomOrder(Scorer):
    """Scores that know nothing."""

    def __init__(self, num_items: int, seed: int) -> None:
        self.num_items = num_items
        self.rng = np.random.default_rng(seed)

    def score_and_like(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        scores_BN = self.rng.random((len(batch.lengths_B), self.num_items))
        return scores_BN, scores_BN


def measured(scorer: Scorer, data: Dataset) -> dict[str, float]:
    """Mean NDCG@10 of the test's users by slice."""
    rows = data.rows("test")
    slices = report_slices(rows, data.catalogue())
    metrics = measure(scorer, rows, slices, k=10, users_per_block=256).metrics
    return {name: float(np.nanmean(metrics[name]["ndcg"])) for name in ("all", "warm", "cold")}


def trained(data: Dataset, run: Run) -> Trained:
    """Trains, and measures every system."""
    assert work([run], 1) == [None]
    draws = [measured(RandomOrder(data.num_items, seed), data) for seed in range(DRAWS)]
    figures = {"random order": {name: float(np.mean([draw[name] for draw in draws])) for name in draws[0]}}
    for system in run.settings.config.systems():
        weights = f"{run.settings.uri}/{system}"
        verify(weights, "weights")
        figures[system] = measured(load_ranker(weights, data.stats()), data)
    return Trained(data, run, figures)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Every control, on items that share no word."""
    folder = tmp_path_factory.mktemp("home")
    data = published(in_words(generate(num_users=300, num_items=180, num_interactions=9000)), folder / "dataset", DATA)
    config = TrainConfig(
        stages=(SCALED, FROZEN, ID_ONLY), controls=("random_weights", "shuffled_texts"), zero_stage=0, warmup_steps=3
    )
    return trained(data, Run(settings(data, folder, MODEL, config, **LOADER)))


@pytest.fixture(scope="module")
def abroad(home: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What was learnt at home, untrained, on items that share phrases; and random weights there."""
    folder = tmp_path_factory.mktemp("abroad")
    data = published(generate(seed=1), folder / "dataset", DATA)
    stage = SCALED.model_copy(update={"name": "scaled_random_weights", "control": "random_weights"})
    start = f"{home.run.settings.uri}/frozen"
    config = TrainConfig(stages=(stage,), start_from=start, zero_stage=0, warmup_steps=3)
    return trained(data, Run(settings(data, folder, MODEL, config, **LOADER)))


def mean_loss(run: Run, stage: str, steps: slice) -> float:
    return float(np.mean(run.losses(stage)[steps]))


def test_items_at_home_share_no_word_and_no_profile_names_one(home: Trained) -> None:
    texts = item_texts(home.data.catalogue())
    item_W, words = words_of(pa.array(texts))
    own_W = ~np.isin(words.to_numpy(zero_copy_only=False), FORMATS)
    names = words.to_numpy(zero_copy_only=False)[own_W]
    assert (np.bincount(item_W[own_W]) == 2).all()
    assert len(set(names)) == len(names) == 2 * len(texts)
    profiles = pa.concat_tables([home.data.rows(split) for split in ("train", "valid", "test")])["profile"]
    assert set(names).isdisjoint(words_of(profiles.combine_chunks())[1].to_pylist())
    tokens = load_language_model(MODEL.language_model)[1](texts)["input_ids"]
    assert len({len(sequence) for sequence in tokens}) == 1, "a word is more than one token"


@pytest.mark.parametrize("system", TEXT)
def test_meaning_finds_items_that_nobody_has_met(home: Trained, system: str) -> None:
    cold = {name: figures["cold"] for name, figures in home.figures.items()}
    assert cold[system] > cold["random order"] + 0.1
    assert cold[system] > cold[f"{system}_random_weights"] + 0.1
    assert cold[system] > cold[f"{system}_shuffled_texts"] + 0.1


@pytest.mark.parametrize("system", TEXT)
@pytest.mark.parametrize("control", ["random_weights", "shuffled_texts"])
def test_without_meaning_the_order_of_new_items_is_random(home: Trained, system: str, control: str) -> None:
    cold = home.figures[f"{system}_{control}"]["cold"]
    assert cold == pytest.approx(home.figures["random order"]["cold"], abs=0.1)


def test_ids_tell_nothing_of_new_items(home: Trained) -> None:
    """All have one score, and ties count against it."""
    assert home.figures["id_only"]["cold"] == 0


@pytest.mark.parametrize("system", TEXT)
@pytest.mark.parametrize("where", ["all", "warm"])
def test_dealt_out_texts_are_no_better_than_ids(home: Trained, system: str, where: str) -> None:
    """They are IDs of another kind, worse than true texts; and IDs do learn whom the items that were met are for."""
    assert home.figures["id_only"][where] > home.figures["random order"][where] + 0.1
    assert home.figures[f"{system}_shuffled_texts"][where] < home.figures["id_only"][where] + 0.02
    assert home.figures[f"{system}_shuffled_texts"][where] < home.figures[system][where] - 0.03


def test_training_learns_and_learns_more_of_the_true_texts(home: Trained) -> None:
    first, last = slice(10), slice(-10, None)
    assert mean_loss(home.run, "frozen", last) < mean_loss(home.run, "scaled", first) - 0.1
    for control in ("random_weights", "shuffled_texts"):
        assert mean_loss(home.run, "frozen", last) < mean_loss(home.run, f"frozen_{control}", last) - 0.1


def test_what_was_learnt_on_one_catalogue_serves_another(home: Trained, abroad: Trained) -> None:
    assert abroad.figures["zero_shot"]["cold"] > abroad.figures["random order"]["cold"] + 0.1
    start, here = f"{home.run.settings.uri}/frozen", f"{abroad.run.settings.uri}/zero_shot"
    there_tensors, here_tensors = (load_file(f"{uri}/model.safetensors") for uri in (start, here))
    differing = {name for name in there_tensors if not np.array_equal(there_tensors[name], here_tensors[name])}
    assert differing <= set(OF_ITEMS)
    assert not here_tensors["fusion.ids.weight"].any()


@pytest.mark.parametrize("system", ["zero_shot_random_weights", "scaled_random_weights"])
def test_where_new_items_share_words_random_weights_find_them(abroad: Trained, system: str) -> None:
    """Without knowledge a vector still is the words of a text."""
    assert abroad.figures[system]["cold"] > abroad.figures["random order"]["cold"] + 0.1
