"""Which device trains and which applies; how much of a card is taken."""

import types

import pytest
import torch

from demo_node.trainer.device import Devices, check_devices, choose_devices, limit_memory
from demo_protocol.errors import ConfigError
from tests.trainer.builders import CPU, learner, train_order


def never(_device: torch.device) -> bool:
    return False


def test_a_device_that_fails_the_known_answer_leaves_updates_to_the_cpu() -> None:
    card, cpu = torch.device("cuda"), torch.device("cpu")
    assert check_devices(card, lambda device: device == cpu) == Devices(card, cpu)

    def lacks_an_operation(device: torch.device) -> bool:
        if device == card:
            raise NotImplementedError
        return True

    assert check_devices(card, lacks_an_operation) == Devices(card, cpu)
    assert not check_devices(card, never).can_contribute


def test_the_cpu_passes_the_known_answer_test() -> None:
    assert choose_devices("cpu") == CPU


@pytest.mark.parametrize("name", ["tpu", "cuda:99", ""])
def test_devices_that_are_not_there_are_the_operators_to_fix(name: str) -> None:
    with pytest.raises(ConfigError):
        choose_devices(name)


def test_whose_arithmetic_is_wrong_sends_heartbeats() -> None:
    one = learner(devices=choose_devices("cpu", is_exact=never))
    trained = one.train(train_order())
    assert (trained.k, trained.payload, trained.samples) == (0, b"", 0)


def test_a_cards_memory_is_capped_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    capped: list[tuple[float, object]] = []
    card = torch.device("cuda:1")
    properties = types.SimpleNamespace(total_memory=8 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    monkeypatch.setattr(
        torch.cuda,
        "set_per_process_memory_fraction",
        lambda fraction, device: capped.append((fraction, device)),
    )
    limit_memory(card, 2048)
    limit_memory(card, 1 << 20)
    limit_memory(card, 0)
    limit_memory(torch.device("cpu"), 2048)
    assert capped == [(0.25, card), (1.0, card)]
