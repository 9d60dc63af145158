"""rayrec.train.watchdog: who is behind, as far as can be told."""

import pytest

from rayrec.train.watchdog import Told, behind

AT_WORK, WAITING = Told(5, "data"), Told(5, "step", waits=True)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({0: WAITING, 1: AT_WORK}, [1]),
        ({0: AT_WORK, 1: WAITING, 2: AT_WORK}, [0, 2]),
        ({0: WAITING, 1: WAITING}, [0, 1]),
        ({0: WAITING, 1: Told(4, "step", waits=True), 2: AT_WORK}, [1]),
        ({0: WAITING, 1: Told(4, "step", waits=True), 2: Told(4, "checkpoint")}, [2]),
        ({0: AT_WORK, 1: None, 2: WAITING}, [1]),
    ],
)
def test_those_behind_are_silent_or_first_in_steps_or_not_waiting(
    told: dict[int, Told | None], expected: list[int]
) -> None:
    assert behind(told) == expected
