"""Left padding: which positions and which places of the cache a padded row uses."""

import torch

from nanollava.padding import LeftPadding


def padding() -> LeftPadding:
    return LeftPadding.for_prompts(torch.zeros(2, 4, dtype=torch.long), torch.tensor([4, 2]))


def test_equal_lengths_need_no_padding():
    ids = torch.zeros(2, 4, dtype=torch.long)
    assert LeftPadding.for_prompts(ids, None) is None
    assert LeftPadding.for_prompts(ids, torch.tensor([4, 4])) is None


def test_shift_moves_the_padding_to_the_front():
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    assert padding().shift(ids).tolist() == [[1, 2, 3, 4], [0, 0, 5, 6]]


def test_positions_count_from_the_start_of_each_prompt():
    assert padding().position(0, 4).tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    assert padding().position(4, 1).tolist() == [[4], [2]]


def test_prompt_mask_hides_the_padding_and_the_future():
    full, padded = padding().prompt_mask(4).squeeze(1).int().tolist()
    assert full == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    # Rows of padding see themselves, so that their softmax is not empty.
    assert padded == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_step_mask_hides_the_padding():
    assert padding().step_mask(5).squeeze().int().tolist() == [[1] * 5, [0, 0, 1, 1, 1]]


def test_padding_does_not_count_as_having_occurred():
    ids = torch.tensor([[7, 8, 9, 7], [5, 6, 0, 0]])
    assert padding().fill(ids).tolist() == [[7, 8, 9, 7], [5, 6, 5, 5]]
