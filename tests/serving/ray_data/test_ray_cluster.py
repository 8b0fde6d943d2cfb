"""`oslic batch --ray` and the classes for pipelines, on clusters of Ray's own."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import small_bundle
from oslic.cli import main as cli
from oslic.runtime.codec import Codec
from oslic.runtime.codec.request import make_request
from oslic.serving.batch.sources import Item
from oslic.serving.batch.table import read_results
from oslic.serving.batch.work import CodecOptions, Job
from PIL import Image

pytestmark = pytest.mark.serving

ray = pytest.importorskip("ray")
from oslic.serving import ray as serving_ray  # noqa: E402

COUNT = 2000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small_bundle.write(tmp_path_factory.mktemp("bundles") / "small", refines=True).path


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photo):
    """2,000 small photographs, five of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        top, left = number % 230, number * 7 % 380
        path = folder / f"{number // 500}" / f"{number:04d}.png"
        path.parent.mkdir(exist_ok=True)
        if number % 400 == 13:
            path.write_bytes(b"no photograph")
        else:
            Image.fromarray(photo[top : top + 64, left : left + 64]).save(path, compress_level=1)
    return folder


@pytest.fixture
def two_nodes():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    second = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()


def items_in(folder):
    return [Item(str(path), path.relative_to(folder).as_posix()) for path in sorted(folder.rglob("*.png"))]


def test_every_item_has_one_row_and_one_stream_though_a_machine_goes_away(
    two_nodes, photos, tmp_path, bundle
):
    cluster, second = two_nodes
    target = tmp_path / "streams"
    job = Job(str(target), make_request(60, effort=0))
    options = CodecOptions(str(bundle))
    where = serving_ray.Cluster(cluster.address, actors=4)
    found, alive = [], True
    for row in serving_ray.rows(items_in(photos), job, options, where):
        found.append(row)
        if alive and len(found) >= COUNT // 4:
            cluster.remove_node(second, allow_graceful=False)
            alive = False
    assert not alive
    assert Counter(row.source for row in found) == Counter(item.source for item in items_in(photos))
    failed = [row for row in found if row.failed]
    assert len(failed) == 5
    assert {row.exit_code for row in failed} == {3}
    with Codec.open(bundle, threads=1) as codec:
        for row in found:
            if not row.failed:
                assert row.output is not None
                assert codec.decode(row.output).digest_matches
    assert not list(target.rglob("*.part"))


def test_a_second_run_does_only_the_rest(photos, tmp_path, bundle, capsys):
    part = tmp_path / "photos"
    part.mkdir()
    for item in items_in(photos)[:40]:
        (part / item.name.replace("/", "-")).symlink_to(item.source)
    arguments = ["-o", str(tmp_path / "t"), "--bundle", str(bundle), "--effort", "0"]
    arguments += ["--ray", "local", "--actors", "2", "--json"]
    assert cli.main(["batch", str(part), *arguments]) == 3
    assert json.loads(capsys.readouterr().out)["done"] == 39
    for item in items_in(photos)[40:50]:
        (part / item.name.replace("/", "-")).symlink_to(item.source)
    assert cli.main(["batch", str(part), *arguments]) == 3
    summary = json.loads(capsys.readouterr().out)
    assert (summary["items"], summary["done"], summary["failed"], summary["done_before"]) == (11, 10, 1, 39)
    assert read_results(str(tmp_path / "t")).num_rows == 50


def test_the_streams_are_those_of_one_machine(photos, tmp_path, bundle):
    arguments = ["--bundle", str(bundle), "--effort", "0"]
    (tmp_path / "list.txt").write_text("\n".join(item.source for item in items_in(photos)[:8]))
    source = str(tmp_path / "list.txt")
    assert cli.main(["batch", source, "-o", str(tmp_path / "one"), *arguments]) == 0
    ray_arguments = ["-o", str(tmp_path / "many"), *arguments, "--ray", "local", "--actors", "1"]
    assert cli.main(["batch", source, *ray_arguments]) == 0
    tables = [read_results(str(tmp_path / name)).to_pylist() for name in ("one", "many")]
    one, many = ({row["source"]: (row["digest"], row["psnr"]) for row in table} for table in tables)
    assert one == many
    assert len(one) == 8


def test_s3_by_url(tmp_path, photo, bundle, capsys, monkeypatch):
    """moto's server on the loopback in the place of S3."""
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        endpoint = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", endpoint),
        ):
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="photos")
        Image.fromarray(photo[:64, :80]).save(tmp_path / "x.png")
        for name in ("a.png", "deep/b.png", "deep/c.png"):
            client.put_object(Bucket="photos", Key=name, Body=(tmp_path / "x.png").read_bytes())
        arguments = ["--bundle", str(bundle), "--effort", "0", "--json", "--ray", "local", "--actors", "1"]
        capsys.readouterr()  # what moto says of itself
        for done in ((3, 0), (0, 3)):
            assert cli.main(["batch", "s3://photos", "-o", "s3://photos/streams", *arguments]) == 0
            summary = json.loads(capsys.readouterr().out)
            assert (summary["done"], summary["done_before"]) == done
        body = client.get_object(Bucket="photos", Key="streams/deep/c.png.oslic")["Body"].read()
        with Codec.open(bundle, threads=1) as codec:
            assert codec.decompress(body).shape == (64, 80, 3)
            assert body == codec.compress((tmp_path / "x.png").read_bytes(), effort=0)
        missing = ["batch", "s3://nobucket/x", "-o", str(tmp_path / "t")]
        assert cli.main(missing) == 10
        assert capsys.readouterr().err.count("\n") == 1
    finally:
        server.stop()


def test_pipelines_of_ones_own(photos, bundle):
    options = CodecOptions(str(bundle), threads=1)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        files = ray.data.read_binary_files(
            [item.source for item in items_in(photos)[:16]], include_paths=True
        )
        streams = files.map_batches(
            serving_ray.Compress,
            fn_constructor_kwargs={"options": options, "effort": 0, "quality": 90},
            batch_size=8,
            compute=ray.data.ActorPoolStrategy(size=1),
        ).materialize()
        rows = {row["path"].rpartition("/")[2]: row for row in streams.take_all()}
        assert len(rows) == 16
        assert rows["0013.png"]["stream"] == b""
        assert "not an image" in rows["0013.png"]["error"]
        assert (rows["0003.png"]["width"], rows["0003.png"]["height"], rows["0003.png"]["error"]) == (
            64,
            64,
            "",
        )
        assert "bytes" not in rows["0003.png"]
        images = (
            streams.rename_columns({"stream": "bytes"})
            .map_batches(
                serving_ray.Decompress,
                fn_constructor_kwargs={"options": options},
                batch_size=8,
                compute=ray.data.ActorPoolStrategy(size=1),
            )
            .take_all()
        )
        pictures = {row["path"].rpartition("/")[2]: row for row in images}
        with Codec.open(bundle, threads=1) as codec:
            wanted = codec.decompress(rows["0003.png"]["stream"])
        assert np.array_equal(pictures["0003.png"]["image"], wanted)
        assert pictures["0003.png"]["digest_matches"]
        assert pictures["0013.png"]["image"].shape == (0, 0)
        assert "stream" in pictures["0013.png"]["error"]
    finally:
        ray.shutdown()


def test_clusters_that_cannot_be_reached_are_one_line(photos, tmp_path, bundle, capsys):
    arguments = ["batch", str(photos), "-o", str(tmp_path / "t"), "--bundle", str(bundle)]
    assert cli.main([*arguments, "--ray", "127.0.0.1:9"]) == 6
    error = capsys.readouterr().err
    assert "no Ray cluster at 127.0.0.1:9: " in error
    assert error.count("\n") == 1


def test_gpus_that_the_cluster_lacks_are_one_line(photos, tmp_path, bundle):
    with pytest.raises(Exception, match="no free GPU for an actor, which takes 1 processors and 1 GPUs"):
        list(
            serving_ray.rows(
                items_in(photos)[:1],
                Job(str(tmp_path)),
                replace(CodecOptions(str(bundle)), backend="tensorrt"),
                serving_ray.Cluster("local"),
            )
        )
