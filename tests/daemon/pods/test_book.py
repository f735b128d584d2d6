"""The file between watcher and daemon: replaced as a whole, read with suspicion."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.core.errors import ConfigError
from isotherm.daemon.pods.book import LARGEST_BYTES, Book, Pod, read_book, write_book

POD = Pod(uid="0f-1", namespace="a", name="db", annotations={"isotherm.io/weight": "2"})
PLAIN = st.text(st.characters(codec="utf-8"), max_size=40)


@given(st.lists(st.builds(Pod, uid=st.just("0a"), namespace=PLAIN, name=PLAIN)))
def test_what_is_written_is_read(pods: list[Pod]) -> None:
    """Whatever names are made of."""
    data = msgspec.json.encode(Book(pods=tuple(pods)))
    assert tuple(pods) == msgspec.json.decode(data, type=Book).pods


def test_the_file_is_replaced(tmp_path: Path) -> None:
    """Nothing else is left in its directory; anybody may read it."""
    path = tmp_path / "pods.json"
    write_book(path, [])
    write_book(path, [POD])
    assert (POD,) == read_book(path)
    assert ["pods.json"] == [path.name for path in tmp_path.iterdir()]
    assert 0o644 == path.stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected a list of pods"),
        ("[]", "Expected `object`"),
        ('{"version": 2, "pods": []}', "version: expected 1, got 2"),
        (
            '{"pods": [{"uid": "../x", "namespace": "a", "name": "b"}]}',
            "matching regex",
        ),
        (f'{{"pods": [{{"uid": "0", "namespace": "{300 * "a"}"}}]}}', "length <= 253"),
    ],
)
def test_what_is_no_such_file(tmp_path: Path, text: str, why: str) -> None:
    """It names the file and what is wrong with it."""
    path = tmp_path / "pods.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=why) as error:
        read_book(path)
    assert error.value.message.startswith(f"{path}: ")


def test_a_file_that_is_not_there_or_too_large(tmp_path: Path) -> None:
    """It is not read into memory as a whole to find that out."""
    path = tmp_path / "pods.json"
    with pytest.raises(ConfigError, match="cannot read it"):
        read_book(path)
    with path.open("wb") as file:
        file.truncate(LARGEST_BYTES + 1)
    with pytest.raises(ConfigError, match="at most"):
        read_book(path)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """The watcher says where it cannot write."""
    with pytest.raises(ConfigError, match="cannot write it"):
        write_book(tmp_path / "no/pods.json", [POD])
