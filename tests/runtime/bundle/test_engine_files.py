"""Sidecars of engines: what is read, what fits, and the command that rebuilds."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import pytest
from oslic.cli.commands.inspect import describe
from oslic.runtime.bundle.engine_files import (
    EngineInfo,
    choose_engine,
    rebuild_command,
    wanted_precision,
)
from oslic.runtime.errors import BackendError
from oslic.runtime.model.source import bundle_shapes
from stand_in_engines import HERE, put_engine


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("gpu", "new", "not a compute capability"),
        ("precision", "int3", "known are int8"),
        ("backend", "other", "known are tensorrt"),
        ("profiles", [{}], "a profile has no shapes"),
        ("graph", "../segment", "must be a name"),
        ("profiles", [{"image": [[1, 32, 32, 3]] * 2}], "not three of equal rank"),
        ("profiles", [{"image": [[1, 32, 32, 3], [1, 64, 64, 3], [1, 64, 64]]}], "not three of equal rank"),
        ("profiles", [{"image": [[1, 32, 32, 3], [1, 0, 64, 3], [1, 64, 64, 3]]}], "not in order"),
    ],
)
def test_sidecars_that_make_no_sense_are_refused_when_read(bundle, field, value, reason):
    info = put_engine(bundle, "segment")
    path = bundle.path / "engines" / f"{Path(info.file).stem}.json"
    assert EngineInfo.read(path) == info
    body = json.loads(path.read_text()) | {field: value}
    path.write_text(json.dumps(body))
    with pytest.raises(BackendError, match=reason):
        EngineInfo.read(path)
    (engine,) = describe(bundle)["engines"]
    assert reason in engine["damage"]


def test_a_fitting_engine_is_chosen(bundle):
    info = put_engine(bundle, "synthesise")
    path, found = choose_engine(bundle, "synthesise", "tensorrt", **HERE)
    assert (path.name, found) == (info.file, info)


@pytest.mark.parametrize(
    ("changes", "here", "message"),
    [
        ({"gpu": "8.9"}, {}, r"built for compute capability 8\.9, here is 9\.0"),
        ({"version": "11.3.0"}, {}, r"built with tensorrt 11\.3\.0, here is 11\.4\.0"),
        ({}, {"precision": "fp32"}, "is fp16, not fp32"),
        ({"gpu": "9.1+"}, {}, r"capability 9\.1\+"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_with_the_command_that_rebuilds_it(
    bundle, changes, here, message
):
    put_engine(bundle, "synthesise", **changes)
    with pytest.raises(BackendError, match=message) as caught:
        choose_engine(bundle, "synthesise", "tensorrt", **(HERE | here))
    precision = here.get("precision", "fp16")
    assert f"oslic build {bundle.path} --backend tensorrt --precision {precision}" in str(caught.value)


def test_an_engine_of_another_graph_is_refused(bundle):
    info = put_engine(bundle, "synthesise")
    sidecar = bundle.path / "engines" / "synthesise.tensorrt.fp16.json"
    sidecar.write_text(dataclasses.replace(info, graph_sha256="cd" * 32).to_json())
    with pytest.raises(BackendError, match="built from another graph"):
        choose_engine(bundle, "synthesise", "tensorrt", **HERE)


def test_compatible_engines_fit_other_gpus_and_versions(bundle):
    put_engine(bundle, "synthesise", gpu="8.0+", version="11.1.0", version_compatible=True)
    assert choose_engine(bundle, "synthesise", "tensorrt", **HERE)
    with pytest.raises(BackendError, match=r"8\.0\+, here is 7\.5"):
        choose_engine(bundle, "synthesise", "tensorrt", **(HERE | {"gpu": "7.5"}))
    assert choose_engine(bundle, "synthesise", "tensorrt", **(HERE | {"gpu": "10.0"}))


def test_the_fastest_precision_is_wanted_and_no_other_taken_instead(bundle):
    assert wanted_precision(bundle, "tensorrt") is None
    with pytest.raises(BackendError, match="has no tensorrt engine of segment; build it: oslic build"):
        choose_engine(bundle, "segment", "tensorrt", **HERE)
    for graph in bundle.manifest.graph_names:
        put_engine(bundle, graph, precision="fp32")
    put_engine(bundle, "synthesise", precision="fp16", version="11.3.0")
    assert wanted_precision(bundle, "tensorrt") == "fp16"
    with pytest.raises(BackendError, match=r"built with tensorrt 11\.3\.0"):  # the fp32 one would fit
        choose_engine(bundle, "synthesise", "tensorrt", **HERE)
    with pytest.raises(BackendError, match="is fp32, not fp16; build it"):
        choose_engine(bundle, "segment", "tensorrt", **HERE)
    assert choose_engine(bundle, "segment", "tensorrt", **(HERE | {"precision": "fp32"}))


def test_the_command_that_rebuilds_asks_for_the_same_engine(bundle):
    from oslic.cli.commands import build
    from oslic.export.engines import Profile

    info = put_engine(bundle, "synthesise", version_compatible=True, optimization_level=5, gpu="8.0+")
    info = dataclasses.replace(info, profiles=(*info.profiles, *info.profiles))
    words = rebuild_command(bundle.path, info).split()
    assert words[:2] == ["oslic", "build"]
    import argparse

    parser = argparse.ArgumentParser()
    build.configure(parser)
    args = parser.parse_args(words[2:])
    manifest = bundle.manifest
    inputs = manifest.graphs["synthesise"].inputs
    profiles = [Profile.parse(text) for text in args.shapes]
    assert (
        tuple(
            p.shapes(inputs, manifest.multiple, partial(bundle_shapes, manifest.label_scale))
            for p in profiles
        )
        == info.profiles
    )
    assert (args.backend, args.precision, args.graph) == ("tensorrt", "fp16", ["synthesise"])
    assert (args.optimization_level, args.version_compatible, args.hardware_compatible, args.stripped) == (
        5,
        True,
        True,
        False,
    )


def test_engines_without_weights_must_have_the_graphs_own_types():
    from oslic.export.engines import Options as BuildOptions
    from oslic.export.engines import require_supported
    from oslic.runtime.errors import UsageError

    class Product:
        __version__ = "0"
        BuilderFlag = DataType = type("Any", (), {"STRIP_PLAN": 1, "BF16": 2})

    with pytest.raises(UsageError, match="leave --stripped or --precision fp16 out"):
        require_supported(Product, "tensorrt", "fp16", BuildOptions(stripped=True))
    require_supported(Product, "tensorrt", "fp32", BuildOptions(stripped=True))
