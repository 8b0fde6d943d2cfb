"""What callers ask of the encoder, and what is told them where it makes no sense."""

import pytest
from oslic.cli.main import main
from oslic.runtime import Codec
from oslic.runtime.codec.request import make_request
from oslic.runtime.errors import UsageError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"focus": 3}, "focus is 3"),
        ({"class_quality": "person=25"}, "must map names"),
        ({"class_quality": {"person": "much"}}, "change of person"),
        ({"quality": 50, "bpp": 1}, "give one of them"),
    ],
)
def test_requests_that_make_no_sense_are_refused_in_words(arguments, message):
    with pytest.raises(UsageError, match=message):
        make_request(**arguments)


def test_a_class_is_named_once(capsys, samples, tmp_path):
    words = ["compress", str(samples / "coffee.png"), "-o", str(tmp_path / "a.oslic")]
    with pytest.raises(SystemExit):
        main([*words, "--class-quality", "person=+20,person=-5"])
    assert "'person' is named twice" in capsys.readouterr().err


def test_a_closed_codec_says_so(photo):
    with Codec.open() as codec:
        pass
    with pytest.raises(UsageError, match="closed"):
        codec.compress(photo)
