"""What more than one file of these tests needs and takes seconds to make."""

import pytest

from tests.pretrained import keras_small


@pytest.fixture(scope="session")
def small_keras(tmp_path_factory):
    """The folder of a small Keras net's files, and its values by cnnjax's names."""
    folder = tmp_path_factory.mktemp("small_keras")
    return folder, keras_small.write(folder)
