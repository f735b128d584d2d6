"""The configuration: every key documented, every mistake named."""

from pathlib import Path

import pytest

from isotherm.core.errors import ConfigError
from isotherm.daemon.config import Config, parse_config, read_config, render_config


def test_what_is_shown_is_read_back():
    """The shown configuration is a file that means the same."""
    assert Config() == parse_config(render_config(Config()), "shown")


def test_every_key_is_shown_with_its_meaning():
    """No key comes without a comment line above it that says what it is."""
    lines = render_config(Config()).splitlines()
    keys = [at for at, line in enumerate(lines) if " = " in line and line[0] != "#"]
    assert len(keys) == sum(
        len(getattr(Config(), section).__struct_fields__)
        for section in Config.__struct_fields__
    )
    assert all(lines[at - 1].startswith("# ") for at in keys)


def test_a_file_sets_what_it_names():
    """What a file does not name keeps its default."""
    config = parse_config("[loop]\nepoch_s = 2.5\n[brake]\nenabled = false\n", "f")
    assert 2.5 == config.loop.epoch_s
    assert not config.brake.enabled
    assert Config().migration == config.migration


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[loop]\nepch_s = 1",
            "f: loop: object contains unknown field `epch_s`; did you mean 'epoch_s'?",
        ),
        (
            "[lop]",
            "f: object contains unknown field `lop`; did you mean 'loop'?",
        ),
        ("[loop]\nepoch_s = 'x'", "f: loop.epoch_s: expected `float`, got `str`"),
        (
            "[migration]\nlimit_mib_s = inf",
            "f: migration.limit_mib_s: expected a number, got inf",
        ),
        ("[loop]\nepoch_s = nan", "f: loop.epoch_s: expected a number, got nan"),
        ("[loop]\nepoch_s = -1", "f: loop.epoch_s: expected `float` > 0.0"),
    ],
)
def test_a_mistake_is_named(text, said):
    """The message names the file, the key, what was found and what is near."""
    with pytest.raises(ConfigError) as error:
        parse_config(text, "f")
    assert said == error.value.message
    assert "isotherm config show lists every key" == error.value.hint


def test_what_is_no_toml_or_no_file_is_a_usage_error(tmp_path):
    """Broken TOML and a missing file end with exit code 2."""
    with pytest.raises(ConfigError, match="expected TOML"):
        parse_config("x =", "f")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_config(tmp_path / "missing.toml")
    assert ConfigError.exit_code == 2
    assert Config() == read_config(None)


def test_the_page_shows_the_defaults():
    """The reference has every key as ``config show`` prints it."""
    page = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"
    assert render_config(Config()) in page.read_text()
