"""Stage weights: accepted by SHA-256 alone, complete or absent, one readable line on failure."""

import hashlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from ssimbad import artifacts
from ssimbad.errors import UserError
from ssimbad.features import stage as weights
from ssimbad.runtime.job import Job

DATA = bytes(range(256)) * 8192  # 2 MiB


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path: Path):
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file.pth").write_bytes(DATA)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "www"))) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/file.pth"
        http.shutdown()


def run(tmp_path: Path, url: str = "http://127.0.0.1:1/", path: str | None = None, sha256: str | None = None) -> Path:
    entry = SimpleNamespace(url=url, path=path, sha256=sha256 or hashlib.sha256(DATA).hexdigest())
    target = tmp_path / "data" / "weights" / "inception.pth"
    params = SimpleNamespace(weights=SimpleNamespace(inception=entry))
    weights.run(params, {}, {"inception": target}, Job("weights", tmp_path))
    return target


def test_download_arrives_whole(tmp_path, server):
    target = run(tmp_path, server)
    assert target.read_bytes() == DATA
    assert [p.name for p in target.parent.iterdir()] == ["inception.pth"]


def test_a_right_file_is_kept_without_network(tmp_path, server):
    target = run(tmp_path, server)
    before, shown = target.stat().st_mtime_ns, []
    with artifacts.witnessed(lambda temporary, path: shown.append((temporary, path))):
        run(tmp_path)
    assert target.stat().st_mtime_ns == before
    assert shown == [(target, target)], "an output of the stage all the same"


def test_a_path_of_ones_own_comes_before_the_url(tmp_path):
    (tmp_path / "mine.pth").write_bytes(DATA)
    assert run(tmp_path, path=str(tmp_path / "mine.pth")).read_bytes() == DATA


@pytest.mark.parametrize("source", ["url", "path"])
def test_another_file_is_refused_and_leaves_nothing(tmp_path, server, source):
    (tmp_path / "mine.pth").write_bytes(DATA)
    where = {"url": server} if source == "url" else {"path": str(tmp_path / "mine.pth")}
    with pytest.raises(UserError, match=r"sha256 .* expected 0{64}; set weights\.inception\.path"):
        run(tmp_path, sha256="0" * 64, **where)
    assert list((tmp_path / "data" / "weights").iterdir()) == []


def test_no_network_is_one_line_that_names_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"cannot be had .*weights\.inception\.path") as error:
        run(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data" / "weights" / "inception.pth").exists()


def test_a_missing_address_and_a_missing_copy_are_told(tmp_path, server):
    with pytest.raises(UserError, match=r"other\.pth cannot be had \(File not found\)"):
        run(tmp_path, server.replace("file", "other"))
    with pytest.raises(UserError, match=r"gone\.pth cannot be had \(No such file"):
        run(tmp_path, path=str(tmp_path / "gone.pth"))


def test_a_download_cut_short_leaves_nothing(tmp_path):
    class Short(Quiet):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            self.wfile.write(DATA[:1000])

    with ThreadingHTTPServer(("127.0.0.1", 0), Short) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match=r"weights\.inception"):
            run(tmp_path, f"http://127.0.0.1:{http.server_port}/file.pth")
        http.shutdown()
    assert list((tmp_path / "data" / "weights").iterdir()) == []
