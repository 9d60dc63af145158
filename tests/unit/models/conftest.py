import pytest

from tests import tiny


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of the toy language model."""
    return tiny.language_model(tmp_path_factory.mktemp("language-model"))
