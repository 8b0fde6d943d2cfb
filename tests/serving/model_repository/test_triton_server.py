"""The codec on a real Triton server: `make test-serving` prepares one."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import small_bundle
from oslic.cli import main as cli
from oslic.runtime.codec import Codec
from oslic.runtime.codec.request import make_request
from oslic.runtime.image.arrays import psnr
from oslic.serving.triton.repository import Plan, write_repository
from PIL import Image

triton = pytest.importorskip("tritonclient.http")
from geventhttpclient.response import HTTPConnectionClosed  # noqa: E402
from triton_server import HOME, READY, Client, Server, free_ports  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402

pytestmark = [
    pytest.mark.serving,
    pytest.mark.skipif(not READY.exists(), reason=f"no server at {HOME}: `make test-serving` prepares it"),
]

MOST_PIXELS = 3_000_000
SIZES = [(64, 64), (65, 47), (300, 200), (1024, 768), (1600, 1100)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small_bundle.write(tmp_path_factory.mktemp("bundles") / "small", refines=True)


def serving(bundle, folder, **plan):
    write_repository(bundle, folder / "repository", Plan(max_pixels=MOST_PIXELS, **plan))
    return Server(folder / "repository", folder / "log")


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory):
    with serving(bundle, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def client(server):
    opened = Client(server.address)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def codec(bundle):
    with Codec.open(bundle, threads=1) as opened:
        yield opened


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


@pytest.fixture(scope="module")
def pictures(photo):
    """PNG files of a photograph at some sizes, gray and with alpha as well."""
    image = Image.fromarray(photo)
    files = [png(np.asarray(image.resize(size, Image.Resampling.BICUBIC))) for size in SIZES]
    alpha = np.dstack([photo, photo[:, :, 0]])
    return [*files, png(photo[:, :, 1]), png(alpha)]


def test_streams_are_those_of_the_command_line(client, pictures, bundle, tmp_path):
    for number, file in enumerate(pictures):
        (tmp_path / f"{number}.png").write_bytes(file)
        target = tmp_path / f"{number}.oslic"
        arguments = ["-o", str(target), "--bundle", str(bundle.path), "--effort", "0", "--quality", "70"]
        assert cli.main(["compress", str(tmp_path / f"{number}.png"), *arguments]) == 0
        stream, info = client.encode(file, quality=70, effort=0)
        assert stream == target.read_bytes()
        assert (info["width"], info["height"]) == Image.open(io.BytesIO(file)).size
        assert info["bytes"] == len(stream)


def test_images_are_those_of_the_codec(client, pictures, codec):
    for file in pictures:
        stream = codec.compress(file, effort=0)
        image, info = client.decode(stream)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(image))), codec.decompress(stream))
        assert info["digest_matches"]


def test_parameters_reach_the_codec(client, pictures, codec):
    stream, _ = client.encode(pictures[2], bpp=1.0, tune="visual", effort=0)
    assert 8 * len(stream) <= 300 * 200
    assert stream == codec.encode(pictures[2], make_request(bpp=1.0, tune="visual", effort=0)).data
    image, _ = client.decode(stream, region="10,20,30,40", format="jpeg", quality=90)
    part = Image.open(io.BytesIO(image))
    assert (part.format, part.size) == ("JPEG", (30, 40))


def errors(pictures, codec, other):
    stream = codec.compress(pictures[0], effort=0)
    yield "encode", b"no image", {}, "ImageError: the image is not an image"
    yield "encode", b"", {}, "ImageError: the image is empty"
    yield "encode", pictures[1][:900], {}, "ImageError: "
    yield "encode", pictures[0], {"qualty": 1}, "UsageError: unknown parameter 'qualty'"
    yield "encode", pictures[0], {"quality": 700}, "UsageError: quality 700 is out of range"
    yield "encode", png(np.zeros((2000, 2000), np.uint8)), {}, "LimitError: the image is 2000x2000"
    yield "encode", pictures[0], {"psnr": 300.0}, "RateError: "
    yield "decode", stream[:-3], {}, "StreamError: "
    yield "decode", b"\x89PNG\r\n\x1a\n", {}, "StreamError: "
    yield "decode", stream, {"region": "50,50,50,50"}, "UsageError: "
    yield "decode", other, {}, "BundleError: "


def test_what_a_client_does_wrong_is_an_error_of_one_line_and_code_400(client, pictures, codec):
    with Codec.open(threads=1) as shipped:
        other = shipped.compress(np.zeros((32, 32, 3), np.uint8), effort=0)
    for model, data, parameters, message in errors(pictures, codec, other):
        with pytest.raises(InferenceServerException) as caught:
            getattr(client, model)(data, **parameters)
        assert caught.value.message().startswith(message)
        assert "\n" not in caught.value.message()
        assert caught.value.status() == "400"
    assert client.encode(pictures[0], effort=0)


def test_many_clients_with_some_broken_pictures(server, pictures, codec, client):
    """The full form of this is `tests/serving/measure_triton.py`."""
    wanted = [codec.compress(file, effort=0) for file in pictures]
    client.encode(pictures[0], effort=0)
    before = server.memory()

    def work(number):
        if number % 33 == 7:
            with pytest.raises(InferenceServerException, match="ImageError"):
                clients.client.encode(pictures[number % len(pictures)][:200], effort=0)
            return False
        stream, _ = clients.client.encode(pictures[number % len(pictures)], effort=0)
        assert stream == wanted[number % len(pictures)]
        return True

    clients = threading.local()
    with ThreadPoolExecutor(
        8, initializer=lambda: setattr(clients, "client", Client(server.address))
    ) as pool:
        answers = list(pool.map(work, range(100)))
    assert answers.count(False) == 3
    assert server.is_ready()
    assert server.memory() - before < 600 << 20


def test_metrics_count_requests_of_each_model(server, client, pictures):
    def count(model, kind):
        found = re.findall(rf'nv_inference_request_{kind}{{model="{model}",[^}}]*}} (\d+)', server.figures())
        return sum(map(int, found))

    before = count("oslic_encode", "success"), count("oslic_synthesise", "success")
    failed = count("oslic_encode", "failure")
    client.encode(pictures[0], effort=0)
    with pytest.raises(InferenceServerException):
        client.encode(b"", effort=0)
    assert count("oslic_encode", "success") + count("oslic_encode", "failure") == sum(before[:1]) + failed + 2
    assert count("oslic_synthesise", "success") == before[1] + 1


def test_a_process_of_the_server_that_dies_is_an_error_and_no_hang(bundle, tmp_path, pictures, codec):
    """Triton does not start it again (its issue 8604): docs/guides/triton.md has the probe that notices."""
    with serving(bundle, tmp_path, instances=1) as server:
        (stub,) = [
            int(folder.name)
            for folder in Path("/proc").iterdir()
            if folder.name.isdecimal()
            and b"oslic_analyse/1/model.py" in _command_line(folder)
            and os.getpgid(int(folder.name)) == server.process_group
        ]
        os.kill(stub, signal.SIGKILL)
        client = Client(server.address, timeout=30)
        for _ in range(3):
            with pytest.raises(
                InferenceServerException, match="the model oslic_analyse failed: Stub process"
            ):
                client.encode(pictures[0], effort=0)
        image, _ = client.decode(codec.compress(pictures[0], effort=0))
        assert image


def _command_line(folder):
    try:
        return (folder / "cmdline").read_bytes()
    except OSError:
        return b""


def test_killed_under_load_and_restarted_clients_get_errors_and_then_answers(bundle, tmp_path, pictures):
    server = serving(bundle, tmp_path)
    server.start()
    stop, log, lock = threading.Event(), [], threading.Lock()

    def load():
        client = Client(server.address, timeout=30)
        while not stop.is_set():
            start = time.monotonic()
            try:
                client.encode(pictures[2], effort=0)
                outcome = "answer"
            except (InferenceServerException, OSError, HTTPConnectionClosed) as error:
                outcome = type(error).__name__
                time.sleep(0.05)
            with lock:
                log.append((start, time.monotonic(), outcome))

    threads = [threading.Thread(target=load) for _ in range(8)]
    try:
        for thread in threads:
            thread.start()
        time.sleep(3)
        killed = time.monotonic()
        server.kill()
        time.sleep(1)
        server.start()
        restarted = time.monotonic()
        time.sleep(4)
        stop.set()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
    finally:
        stop.set()
        server.kill()
    answers = [(start, end) for start, end, outcome in log if outcome == "answer"]
    assert any(end < killed for _, end in answers)
    assert not any(killed < start and end < restarted - 1 for start, end in answers)
    assert sum(start > restarted for start, _ in answers) >= 8
    assert any(outcome != "answer" for _, _, outcome in log)
    assert max(end - start for start, end, _ in log) < 30


def test_a_full_queue_refuses_requests(bundle, tmp_path, pictures):
    with serving(bundle, tmp_path, queue=2, instances=1) as server:

        def work(_):
            try:
                Client(server.address).encode(pictures[3], effort=0)
            except InferenceServerException as error:
                return f"{error.status()} {error.message()}"
            return "answer"

        with ThreadPoolExecutor(12) as pool:
            outcomes = list(pool.map(work, range(12)))
        assert outcomes.count("answer") >= 3
        refused = [outcome for outcome in outcomes if outcome != "answer"]
        assert refused
        assert all(re.fullmatch("503 .*Exceeds maximum queue size", outcome) for outcome in refused), refused
        assert work(0) == "answer"


def test_tiles_of_one_shape_run_in_batches(bundle, tmp_path, pictures, codec):
    """Of pictures of different sizes; the networks are in floating point, so what they give may differ a little."""
    plan = {"tile": 256, "max_batch": 8, "queue_delay": 20_000, "instances": 4}
    with serving(bundle, tmp_path, **plan) as server, ThreadPoolExecutor(4) as pool:
        files = [pictures[3], pictures[4]] * 2
        streams = list(pool.map(lambda file: Client(server.address).encode(file, effort=0)[0], files))
        figures = server.figures()

    def total(name, model):
        return int(re.search(rf'nv_inference_{name}{{model="{model}",[^}}]*}} (\d+)', figures)[1])

    runs, tiles = total("exec_count", "oslic_synthesise"), total("count", "oslic_synthesise")
    assert tiles == 2 * (4 * 3 + 7 * 5)
    assert runs < 0.8 * tiles
    for file, stream in zip(files, streams, strict=True):
        decoded = codec.decode(stream)
        assert (decoded.header.grid.tile_width, decoded.header.grid.tile_height) == (256, 256)
        original = np.asarray(Image.open(io.BytesIO(file)))
        alone = codec.decompress(codec.compress(file, effort=0))
        assert psnr(original, decoded.image) == pytest.approx(psnr(original, alone), abs=0.3)


def test_tiles_in_batches_of_one_give_the_bytes_of_the_codec(bundle, tmp_path, pictures, codec):
    from dataclasses import replace

    with serving(bundle, tmp_path, tile=256) as server:
        stream, _ = Client(server.address).encode(pictures[3], effort=0)
    assert stream == codec.encode(pictures[3], replace(make_request(effort=0), tile=256)).data


def test_a_port_in_use_is_told(server, tmp_path):
    (tmp_path / "empty").mkdir()
    second = Server(tmp_path / "empty", tmp_path / "log", (server.http, *free_ports(1)))
    done = subprocess.run(
        second.command(), env=second.environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert f"Socket '127.0.0.1:{server.http}' already in use" in done.stderr


def test_the_client_of_the_documentation_runs(server, codec, tmp_path, monkeypatch, samples):
    text = (Path(__file__).parents[3] / "docs" / "guides" / "triton.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(example.strip().splitlines()) <= 10
    (tmp_path / "photo.png").write_bytes((samples / "chelsea.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(example.replace("localhost:8000", server.address), "docs/guides/triton.md", "exec"), {})
    assert codec.decompress("photo.oslic").shape == (300, 451, 3)


def test_it_ends_in_order(bundle, tmp_path):
    server = serving(bundle, tmp_path)
    server.start()
    assert server.stop() == 0
