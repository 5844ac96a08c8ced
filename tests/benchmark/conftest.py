import pytest
import torch
from made_benches import Bench


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def bench(tmp_path):
    """An empty bench."""
    return Bench(tmp_path)
