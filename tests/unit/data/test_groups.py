import numpy as np

from rayrec.data.groups import Groups, first_of_each, joined, ranges


def lists(groups: Groups) -> list[list[int]]:
    return [
        groups.events[begin:end].tolist()
        for begin, end in zip(groups.offsets_R1[:-1], groups.offsets_R1[1:], strict=True)
    ]


THREE = Groups(np.array([5, 6, 7, 8, 9]), np.array([0, 2, 2, 5]))


def test_ranges_are_concatenated() -> None:
    assert ranges(np.array([3, 10, 0]), np.array([2, 0, 3])).tolist() == [3, 4, 0, 1, 2]
    assert ranges(np.zeros(0, int), np.zeros(0, int)).tolist() == []


def test_groups_are_narrowed_cut_and_chosen() -> None:
    assert lists(THREE) == [[5, 6], [], [7, 8, 9]]
    assert lists(THREE.narrow(np.array([True, False, True, False, True]))) == [[5], [], [7, 9]]
    assert lists(THREE.last(np.array([0, 1, 2]), 2)) == [[5, 6], [], [8, 9]]
    assert lists(THREE.of(np.array([2, 0]))) == [[7, 8, 9], [5, 6]]
    assert lists(THREE.slices(np.array([1, 0]), np.array([2, 1]))) == [[6, 7], [5]]


def test_groups_are_joined_one_by_one() -> None:
    other = Groups(np.array([1, 2]), np.array([0, 0, 1, 2]))
    assert lists(joined(THREE, other)) == [[5, 6], [1], [7, 8, 9, 2]]


def test_of_equal_values_in_a_group_the_first_stays() -> None:
    values = np.array([3, 1, 3, 3, 0, 3, 1])
    found = first_of_each(values, np.array([0, 3, 3, 7]))
    assert lists(found) == [[1, 0], [], [4, 6, 3]]
    many = np.arange(1000) % 7
    assert lists(first_of_each(many, np.array([0, 1000]))) == [list(range(7))]
    assert lists(first_of_each(np.zeros(0, int), np.array([0, 0]))) == [[]]
