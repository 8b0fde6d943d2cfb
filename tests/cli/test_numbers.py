"""Numeric arguments: what each type takes and refuses, and that commands say so before they begin."""

from __future__ import annotations

import argparse

import pytest
from oslic.cli.main import main
from oslic.cli.numbers import at_least, not_negative, positive, several, width_by_height


def test_whole_numbers_from_a_least_one_on():
    assert (at_least(0)("0"), at_least(1)("12")) == (0, 12)
    for text, message in (("0", "0 is below 1"), ("-3", "-3 is below 1"), ("1.5", "'1.5' is not a whole")):
        with pytest.raises(argparse.ArgumentTypeError, match=message):
            at_least(1)(text)


def test_finite_numbers_above_zero():
    assert positive("0.25") == 0.25
    for text in ("0", "-1", "nan", "inf", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match=text):
            positive(text)


def test_finite_numbers_from_zero_on():
    assert (not_negative("0"), not_negative("1e-4")) == (0.0, 1e-4)
    for text in ("-1e-9", "nan", "inf", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match=text):
            not_negative(text)


def test_several_whole_numbers_within_limits():
    levels = several(at_least(2, 256))
    assert levels("256,32") == (256, 32)
    for text, message in (
        ("256,1", "1 is below 2"),
        ("257", "257 is above 256"),
        ("32,", "'' is not a whole"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=message):
            levels(text)


@pytest.mark.parametrize(
    "words",
    [
        "bench rd images -o x.json --jobs 0",
        "bench latency cat.png -o x.json --timeout -1",
        "bench latency cat.png -o x.json --throughput -1",
        "bench fusion --network lite -o x.json --threads 0",
        "train codec --data data --out run --steps 0",
        "bench flif --efforts 101",
        "bench regress a.json b.json --clear nan",
        "compare lite --backends a,b --layer-atol -1",
        "compare lite --backends a,b --crop 0",
        "fuse in.onnx -o out.onnx --atol nan",
        "fuse in.onnx -o out.onnx --threads 0",
        "export lite -o out --threads 0",
    ],
)
def test_commands_refuse_numbers_out_of_range(words, capsys):
    with pytest.raises(SystemExit) as raised:
        main(words.split())
    assert raised.value.code == 2
    *_, option, number = words.split()
    error = capsys.readouterr().err
    assert f"argument {option}: {number} is" in error


def test_sizes_are_two_whole_numbers_above_zero():
    assert width_by_height("768x512") == (768, 512)
    for text in ("768", "0x512", "768x", "x", "-8x8", "7.5x8", "8x8x8", "²x8"):
        with pytest.raises(argparse.ArgumentTypeError, match="WIDTHxHEIGHT"):
            width_by_height(text)
