"""Parameters of requests, and errors as Triton has them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from oslic.runtime.errors import BackendError, BundleError, LimitError, StreamError, UsageError
from oslic.serving.triton.parameters import decode_request, encode_request
from oslic.serving.triton.server_errors import as_triton, of_model


def test_without_parameters_it_is_the_default():
    request = encode_request({}, tile=256)
    assert (request.settings.quality, request.tile) == (60, 256)
    assert decode_request({}).writer.format.kind == "PNG"


def test_parameters_are_those_of_compress():
    request = encode_request(
        {"quality": 80.5, "effort": 2, "layers": "auto", "tune": "visual", "refine": False, "triton_x": 1}
    )
    settings = request.settings
    assert (settings.quality, settings.effort, settings.layers, settings.tune, settings.refine) == (
        80.5,
        2,
        "auto",
        "visual",
        False,
    )
    assert encode_request({"bpp": 0.5}).bpp == 0.5


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"qualty": 3}, "unknown parameter 'qualty'; known: quality, "),
        ({"quality": "3"}, "quality is '3', must be a number"),
        ({"quality": True}, "quality is True, must be a number"),
        ({"quality": 101}, "out of range"),
        ({"refine": 1}, "refine is 1, must be true or false"),
        ({"layers": "some"}, "layers"),
        ({"bpp": 1, "psnr": 40}, "one of them"),
    ],
)
def test_encode_parameters_that_do_not_fit(parameters, message):
    with pytest.raises(UsageError, match=message):
        encode_request(parameters)


def test_decode_parameters():
    request = decode_request({"format": "jpeg", "quality": 80, "region": "1, 2,30,40", "strict": True})
    assert (request.writer.format.kind, request.writer.quality) == ("JPEG", 80)
    assert (request.region, request.strict) == ((1, 2, 30, 40), True)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"format": "gif"}, "format is 'gif', must be one of png, "),
        ({"format": "png", "quality": 3}, "no quality"),
        ({"format": "jpeg", "quality": 300}, "1..100"),
        ({"region": "1,2,3"}, "must be LEFT,TOP,WIDTH,HEIGHT"),
        ({"region": "1,2,3,-4"}, "must be LEFT,TOP,WIDTH,HEIGHT"),
    ],
)
def test_decode_parameters_that_do_not_fit(parameters, message):
    with pytest.raises(UsageError, match=message):
        decode_request(parameters)


class Codes:
    """As `TritonError` of Triton's Python backend."""

    INVALID_ARG, INTERNAL, UNAVAILABLE = range(3)

    def __init__(self, message, code):
        self.message, self.code = message, code


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (StreamError("cut off"), Codes.INVALID_ARG, "StreamError: cut off"),
        (LimitError("too\nlarge"), Codes.INVALID_ARG, "LimitError: too large"),
        (BackendError("no kernel"), Codes.INTERNAL, "BackendError: no kernel"),
        (MemoryError(), Codes.UNAVAILABLE, "LimitError: not enough memory; "),
        (ZeroDivisionError("x"), Codes.INTERNAL, "BackendError: unexpected ZeroDivisionError: x"),
    ],
)
def test_errors_have_a_kind_and_one_line(error, code, message):
    made = as_triton(error, SimpleNamespace(TritonError=Codes))
    assert made.code == code
    assert made.message.startswith(message)
    assert "\n" not in made.message


def test_errors_of_graph_models_keep_their_kind():
    assert isinstance(of_model("oslic_segment", "BundleError: altered"), BundleError)
    assert "oslic_segment" in str(of_model("oslic_segment", "anything"))
