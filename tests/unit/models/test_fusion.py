import torch

from rayrec.models.fusion import ItemFusion, Whitening, residual_adapter


def crowded(number: int, size: int) -> torch.Tensor:
    """Vectors in a narrow cone with correlated dimensions, as frozen language models make them."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(size, size, generator=generator) + 0.1
    return torch.randn(number, size, generator=generator) @ mix + 20.0


def test_whitening_centres_and_decorrelates() -> None:
    vectors_NH = crowded(4000, 12)
    whitening = Whitening(12, 8)
    whitening.fit(vectors_NH, vectors_NH[:0], shrinkage=0.0)
    white_ND = (vectors_NH - whitening.mean_H) @ whitening.matrix_HD
    torch.testing.assert_close(white_ND.mean(0), torch.zeros(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.cov(white_ND.T), torch.eye(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(whitening(vectors_NH).norm(dim=-1), torch.ones(4000))
    raw_NH = torch.nn.functional.normalize(vectors_NH, dim=-1)
    assert (raw_NH @ raw_NH.T).mean() > 0.5
    assert (whitening(vectors_NH) @ whitening(vectors_NH).T).mean().abs() < 0.01


def test_whitening_keeps_the_directions_of_most_variance() -> None:
    vectors_NH = torch.randn(500, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.1, 5.0, 1.0])
    whitening = Whitening(3, 2)
    whitening.fit(vectors_NH, vectors_NH[:0], shrinkage=0.0)
    assert whitening.matrix_HD[:, 0].abs().argmax() == 1
    assert whitening.matrix_HD[:, 1].abs().argmax() == 2


def test_profiles_are_centred_on_their_own_mean() -> None:
    items_NH, profiles_PH = crowded(500, 6), crowded(300, 6) + 50
    whitening = Whitening(6, 6)
    whitening.fit(items_NH, profiles_PH, shrinkage=0.0)
    as_profiles_PD = whitening(profiles_PH, profiles=True)
    assert (as_profiles_PD @ as_profiles_PD.T).mean().abs() < 0.02
    as_items_PD = whitening(profiles_PH)
    assert (as_items_PD @ as_items_PD.T).mean() > 0.5
    whitening.fit(items_NH, profiles_PH[:0], shrinkage=0.0)
    torch.testing.assert_close(whitening(items_NH, profiles=True), whitening(items_NH))


def test_shrinkage_bounds_what_a_rare_direction_is_blown_up_by() -> None:
    vectors_NH = crowded(5, 12)
    whitening = Whitening(12, 12)
    whitening.fit(vectors_NH, vectors_NH[:0], shrinkage=0.1)
    isotropic = torch.cov(vectors_NH.T).trace() / 12
    assert whitening.matrix_HD.norm(dim=0).max() <= 1.01 / (0.1 * isotropic).sqrt()


def test_an_adapter_starts_at_zero_and_can_learn() -> None:
    adapter = residual_adapter(4, 3)
    inputs_BD = torch.randn(5, 4)
    assert (adapter(inputs_BD) == 0).all()
    (adapter(inputs_BD) - 1).square().sum().backward()
    assert adapter[-1].weight.grad.abs().max() > 0


def fusion(use_text: bool = True) -> ItemFusion:
    made = ItemFusion(6, 4, 3, use_text)
    made.known_N[:4] = True
    with torch.no_grad():
        made.ids.weight.copy_(torch.arange(24.0).reshape(6, 4) + 1)
        made.gate.fill_(0.5)
        made.adapter[-1].bias.fill_(0.25)
    return made


def test_only_a_known_item_that_is_not_as_new_has_an_id_vector() -> None:
    text_UD = torch.randn(4, 4)
    items_U = torch.tensor([1, 5, -1, 2])
    vectors_UD, residual_UD, _ = fusion()(text_UD, items_U, torch.tensor([False, False, False, True]))
    torch.testing.assert_close(residual_UD, torch.full((4, 4), 0.25))
    expected_UD = text_UD + 0.25
    expected_UD[0] += 0.5 * torch.tensor([5.0, 6, 7, 8])
    torch.testing.assert_close(vectors_UD, expected_UD)


def test_without_text_an_item_is_its_id_and_an_unknown_one_nothing() -> None:
    vectors_UD, _, guess_UF = fusion(use_text=False)(
        torch.randn(2, 4), torch.tensor([0, 5]), torch.zeros(2, dtype=torch.bool)
    )
    torch.testing.assert_close(vectors_UD, torch.tensor([[0.5, 1, 1.5, 2], [0, 0, 0, 0]]))
    assert (guess_UF == 0).all()


def test_ids_start_at_zero_beside_text_and_at_random_without() -> None:
    assert (ItemFusion(6, 4, 3, True).ids.weight == 0).all()
    assert abs(ItemFusion(600, 64, 3, False).ids.weight.std().item() * 8 - 1) < 0.05


def test_a_large_catalogue_shares_a_table_of_bounded_rows() -> None:
    made = ItemFusion(5000, 4, 3, use_text=False, id_rows=1000)
    made.known_N[:] = True
    assert made.ids.weight.shape == (1000, 4)
    items_U = torch.arange(5000)
    vectors_UD, _, _ = made(torch.zeros(5000, 4), items_U, torch.zeros(5000, dtype=torch.bool))
    weight = made.ids.weight
    torch.testing.assert_close(vectors_UD[0], weight[0] + weight[12_345 % 1000])
    # 12.5 of the 12.5 million pairs share both rows by chance; by one row alone 10,000 would.
    alike = 5000 - len({tuple(vector) for vector in vectors_UD.tolist()})
    assert alike < 40
    vectors_UD[1234].sum().backward()
    assert weight.grad is not None
    assert int((weight.grad.abs().sum(1) > 0).sum()) == 2


def test_a_small_catalogue_has_a_row_an_item_whatever_the_bound() -> None:
    assert ItemFusion(6, 4, 3, True, id_rows=1000).ids.weight.shape == (6, 4)


def test_the_guess_recovers_a_planted_linear_relation() -> None:
    generator = torch.Generator().manual_seed(0)
    text_MD = torch.nn.functional.normalize(torch.randn(3000, 4, generator=generator), dim=-1)
    text_MD -= text_MD.mean(0)  # as whitened vectors are
    weight_DF, bias_F = torch.randn(4, 3, generator=generator), torch.tensor([1.0, -2.0, 0.5])
    made = fusion()
    made.fit_guess(text_MD, text_MD @ weight_DF + bias_F)
    _, _, guess_UF = made(text_MD[:50], torch.arange(50) % 6, torch.zeros(50, dtype=torch.bool))
    torch.testing.assert_close(guess_UF, text_MD[:50] @ weight_DF + bias_F, atol=0.03, rtol=0)


def test_the_guess_of_noise_is_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    text_MD = torch.nn.functional.normalize(torch.randn(5, 4, generator=generator), dim=-1)
    made = fusion()
    made.fit_guess(text_MD, torch.full((5, 3), 2.0), ridge=1.0)
    torch.testing.assert_close(made.linear_guess(text_MD), torch.full((5, 3), 2.0))
