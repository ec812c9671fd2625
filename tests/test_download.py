"""Published files over HTTP: resumed, retried, verified, kept; and from a run."""

import hashlib
import http.server
import threading

import numpy as np
import pytest
import recipe

from tljax import models, pretrained, train
from tljax.config import Data, Transfer
from tljax.errors import ConfigError, DataError
from tljax.pretrained import catalog, download, files, mapping

NO_WAITS = (0, 0, 0)


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; behaves badly as `faults` say, one for each request."""

    content = b""
    honours_range = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.ranges = [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int):
            return self.send_error(fault)
        content = self.server.content
        ranged = asked and self.server.honours_range
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if ranged else 0
        if start >= len(content) > 0:
            return self.send_error(416)
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = len(content)
        if fault == "drop":
            stop = start + (stop - start) // 2
        self.wfile.write(content[start:stop])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("TLJAX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    server = Server()
    monkeypatch.setenv("TLJAX_WEIGHTS_URL", server.url)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def entry(server):
    """A file of 3 MiB that the server has, as the catalog would describe it."""
    server.content = np.random.default_rng(0).bytes(3 * 1024**2)
    digest = hashlib.sha256(server.content).hexdigest()
    return catalog.find("resnet18")._replace(
        file=f"resnet18-{digest[:8]}.pth", mebibytes=3.0
    )


def test_a_file_is_downloaded_once(server, entry):
    path = download.fetch(entry, NO_WAITS)
    assert path == download.our_cache() / entry.file
    assert path.read_bytes() == server.content
    assert download.fetch(entry, NO_WAITS) == path and len(server.ranges) == 1
    assert sorted(p.name for p in path.parent.iterdir()) == [
        entry.file,
        f"{entry.file}.sha256",
    ]


@pytest.mark.parametrize("honours_range", [True, False])
def test_a_cut_connection_is_gone_on_from(server, entry, honours_range):
    server.faults, server.honours_range = ["drop", 503, "drop"], honours_range
    assert download.fetch(entry, NO_WAITS).read_bytes() == server.content
    half = len(server.content) // 2
    assert server.ranges[:3] == [None, f"bytes={half}-", f"bytes={half}-"]


def test_a_part_of_an_earlier_process_is_gone_on_from(server, entry):
    part = download.our_cache() / f"{entry.file}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(server.content[:1000])
    assert download.fetch(entry, NO_WAITS).read_bytes() == server.content
    assert server.ranges == ["bytes=1000-"] and not part.exists()


def test_a_part_longer_than_the_file_is_begun_anew(server, entry):
    part = download.our_cache() / f"{entry.file}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(server.content + b"more")
    assert download.fetch(entry, NO_WAITS).read_bytes() == server.content


def test_a_wrong_part_is_noticed_and_the_next_attempt_is_clean(server, entry):
    part = download.our_cache() / f"{entry.file}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1000))
    with pytest.raises(DataError, match="does not begin with"):
        download.fetch(entry, NO_WAITS)
    assert not part.exists()
    assert download.fetch(entry, NO_WAITS).read_bytes() == server.content


@pytest.mark.parametrize(
    "content, words",
    [
        (b"<html>log in</html>", "is an HTML page"),
        (b"something else", "does not begin with"),
        (b"", "does not begin with"),
        (bytes(6 * 1024**2), "sends more than"),
    ],
)
def test_another_file_is_refused_and_removed(server, entry, content, words):
    server.content = content
    with pytest.raises(DataError, match=words):
        download.fetch(entry, NO_WAITS)
    left = [p for p in download.our_cache().iterdir() if p.stat().st_size]
    assert left == []


@pytest.mark.parametrize("fault, requests", [(404, 1), (403, 1), (500, 4), ("drop", 4)])
def test_a_server_that_will_not_is_given_up(server, entry, fault, requests):
    server.faults = [fault] * 9
    with pytest.raises(DataError, match=r"cannot be downloaded.*pretrained=file:PATH"):
        download.fetch(entry, NO_WAITS)
    assert len(server.ranges) == requests


def test_no_network_is_one_line_and_a_kept_file_needs_none(server, entry, monkeypatch):
    path = download.fetch(entry, NO_WAITS)
    monkeypatch.setenv("TLJAX_WEIGHTS_URL", "http://127.0.0.1:9")
    assert download.fetch(entry, NO_WAITS) == path
    path.unlink()
    with pytest.raises(DataError, match="Connection refused"):
        download.fetch(entry, NO_WAITS)
    monkeypatch.setenv("TLJAX_WEIGHTS_URL", "ftp://somewhere")
    with pytest.raises(ConfigError, match="must begin with http"):
        download.fetch(entry, NO_WAITS)


def test_torchs_cache_is_used(server, entry):
    path = download.torch_cache() / entry.file
    path.parent.mkdir(parents=True)
    path.write_bytes(server.content)
    assert download.fetch(entry, NO_WAITS) == path and server.ranges == []
    path.write_bytes(server.content[:-1])
    with pytest.raises(DataError, match="is damaged"):
        download.fetch(entry, NO_WAITS)


def test_a_kept_file_is_checked_at_every_use(server, entry):
    path = download.fetch(entry, NO_WAITS)
    path.write_bytes(server.content[:-1] + b"x")
    with pytest.raises(DataError, match=r"is damaged.*delete it"):
        download.fetch(entry, NO_WAITS)


def test_the_whole_hash_must_not_change(server, entry):
    """Eight digits could be met on purpose; the record of the first use could not."""
    download.fetch(entry, NO_WAITS)
    record = download.our_cache() / f"{entry.file}.sha256"
    digest = record.read_text()
    record.write_text(digest[:-1] + ("0" if digest[-1] != "0" else "1"))
    with pytest.raises(DataError, match="has changed"):
        download.fetch(entry, NO_WAITS)


def test_a_disk_without_room_is_said_before(server, entry, monkeypatch):
    with pytest.raises(DataError, match="MiB free"):
        download.fetch(entry._replace(mebibytes=1e12), NO_WAITS)
    assert server.ranges == []


@pytest.fixture
def published(server, monkeypatch, tmp_path):
    """A resnet18 on the server, in the place of torchvision's in the catalog."""
    model = models.create("resnet18")
    state = recipe.draw_state_dict(mapping.layout(model))
    files.write(tmp_path / "x.pth", state, {})
    server.content = (tmp_path / "x.pth").read_bytes()
    digest = hashlib.sha256(server.content).hexdigest()
    entry = catalog.find("resnet18")._replace(file=f"resnet18-{digest[:8]}.pth")
    monkeypatch.setattr(catalog, "find", lambda name: entry)
    return mapping.to_variables(state, "resnet18")


def test_published_weights_bring_classes_and_transform(published):
    weights = pretrained.load_weights("torchvision:resnet18")
    assert weights.class_names[:2] == ("tench", "goldfish")
    assert weights.transform.resize == 256 and weights.transform.mean[0] == 0.485
    assert weights.origin.startswith("torchvision:resnet18.IMAGENET1K_V1 (resnet18-")
    kernel = weights.variables["params"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, published["params"]["conv1"]["kernel"])
    with pytest.raises(ConfigError, match="is of resnet18, not of resnet34"):
        pretrained.load("torchvision:resnet18", arch="resnet34")


@pytest.mark.slow
def test_a_run_starts_from_published_weights(published, tiny_config, tmp_path, capsys):
    """Grey digits, 16 px: the kernel is summed, the mean is ImageNet's, averaged."""
    config = tiny_config(
        pretrained="torchvision:resnet18",
        model=tiny_config().model.__class__(),
        data=Data(image_size=16, batch_size=16),
        transfer=Transfer(input_channels="sum"),
        num_steps=1,
    )
    result = train.train_and_evaluate(config, tmp_path / "run")
    assert "torchvision:resnet18.IMAGENET1K_V1" in result["started_from"]
    assert "3 to 1 image channels by sum" in result["started_from"]
    assert result["transform"]["mean"] == pytest.approx([0.449], abs=1e-3)
    assert "new: fc/" in capsys.readouterr().out
