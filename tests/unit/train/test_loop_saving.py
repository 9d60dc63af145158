"""The loop by a script: when it saves, what it skips, where it goes back to, how it stops."""

import pytest

from rayrec.train.notices import SAVE, STOP
from rayrec.train.surroundings import Stopped
from tests.scripted import Script, stage

pytestmark = pytest.mark.usefixtures("alone")


def test_a_step_with_a_loss_or_a_gradient_that_is_not_finite_is_skipped_and_counted() -> None:
    script = Script([0.1] * 9, losses={2: float("nan")}, overflows=(2, 3, 5))
    final = script.run(stage(steps=6, patience=9), max_skipped=3)
    assert (final.step, final.skipped, final.skipped_in_a_row, script.weight) == (6, 3, 0, 3)


def test_a_step_skipped_for_a_loss_scale_to_be_lowered_is_nothing_to_go_back_for() -> None:
    script = Script([0.1] * 9, too_large_scales=(1, 2, 4), overflows=(3,))
    final = script.run(stage(steps=6, patience=9), max_skipped=2)
    assert (final.step, final.skipped, script.weight) == (6, 4, 2)


def test_steps_skipped_in_a_row_go_back_to_the_checkpoint_and_on_with_the_next_rows() -> None:
    script = Script([0.1] * 9, overflows=(5, 6))
    final = script.run(stage(steps=8, patience=9), max_skipped=2, checkpoint_every=2)
    assert script.steps == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7]
    assert script.seeds == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0)]
    assert (final.step, final.skipped, final.rolled_back_from, script.weight) == (8, 2, 6, 8)
    assert not script.kept


def test_a_stage_that_goes_back_in_vain_ends_with_its_rows_kept() -> None:
    script = Script([0.1] * 9, overflows=(4, 5, 6, 7))
    with pytest.raises(ValueError, match=r"2 steps in a row up to step 4, as before step 5, .*in the/folder") as told:
        script.run(stage(steps=8, patience=9), max_skipped=2, checkpoint_every=2)
    assert "lower its learning_rates" in str(told.value)
    assert script.kept == [0]
    with pytest.raises(ValueError, match="up to step 1, with no checkpoint before"):
        Script([0.1], overflows=(1,)).run(stage(), max_skipped=1)


def test_nothing_is_saved_at_a_step_that_was_skipped() -> None:
    script = Script([0.1] * 9, overflows=(2,))
    script.run(stage(steps=5, patience=9), checkpoint_every=2)
    assert [state.step for state in script.checkpoints] == [4]


def test_a_checkpoint_is_saved_where_a_notice_or_the_clock_asks_for_one() -> None:
    script = Script([0.1] * 9, asked={3: SAVE}, late=(5,))
    final = script.run(stage(steps=7, patience=9))
    assert [state.step for state in script.checkpoints] == [3, 5]
    assert (final.step, script.drained) == (7, 1)  # who sends a notice may not leave the time for another step


def test_a_notice_at_a_step_that_was_skipped_is_heeded_at_the_next() -> None:
    script = Script([0.1] * 9, asked={3: SAVE}, overflows=(3,))
    script.run(stage(steps=7, patience=9))
    assert [state.step for state in script.checkpoints] == [4]


def test_what_was_best_before_a_roll_back_stays_the_best() -> None:
    script = Script([0.1, 0.2, 0.9, *[0.3] * 9], overflows=(5, 6))
    final = script.run(stage(steps=8, patience=9), max_skipped=2, checkpoint_every=3)
    assert (final.best_step, final.best_value, float(final.best["weight"])) == (4, 0.9, 4)


def test_a_stage_that_is_told_to_stop_ends_with_a_stored_checkpoint_from_which_it_goes_on() -> None:
    script = Script([0.1, 0.2, 0.3], asked={3: STOP})
    with pytest.raises(Stopped) as stopped:
        script.run(stage(steps=4))
    assert stopped.value.saved
    assert ([state.step for state in script.checkpoints], script.drained) == ([3], 1)
    again = Script([0.3], weight=3)
    assert again.run(stage(steps=4), state=script.checkpoints[0]).best_step == 4


def test_a_stop_whose_checkpoint_is_lost_says_so() -> None:
    with pytest.raises(Stopped) as stopped:
        Script([0.1], asked={1: STOP}, stored=False).run(stage(steps=4))
    assert not stopped.value.saved


def test_uploads_advance_only_where_no_rank_is_busy() -> None:
    script = Script([0.1] * 9, uploading=(2, 3))
    script.run(stage(steps=5, patience=9))
    assert script.advanced == [True, False, False, True]
