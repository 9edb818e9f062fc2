"""Published time courses: downloaded once from a server of the test, checked and read; and how that fails."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import chreode as ch
from chreode.io import published

N = 60
LOADERS = {
    "EMBRYOID_BODIES": ch.datasets.embryoid_bodies,
    "CITE": ch.datasets.openproblems_cite,
    "MULTI": ch.datasets.openproblems_multi,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Files of the same form as those published, of few cells, by the name of what stands for them."""
    rng = np.random.default_rng(0)
    folder, components = tmp_path_factory.mktemp("published"), rng.normal(size=(N, 7))
    np.savez(
        folder / "EMBRYOID_BODIES",
        pcs=components,
        sample_labels=np.arange(N) % 5,
        delta_pcs=components[::-1],
    )
    for name in ("CITE", "MULTI"):
        anndata.AnnData(
            sp.csr_matrix(rng.poisson(1.0, size=(N, 9)).astype(np.float32)),
            obs=pd.DataFrame(
                {
                    "day": pd.Categorical(np.array([2, 3, 4, 7])[np.arange(N) % 4]),
                    "cell_type": pd.Categorical(np.where(np.arange(N) % 2, "HSC", "MasP")),
                },
                index=[f"{name} {i}" for i in range(N)],
            ),
            obsm={"X_pca": components.astype(np.float32)},
        ).write_h5ad(folder / f"{name}.h5ad")
    return {path.stem: path for path in folder.iterdir()}, components


class Server(ThreadingHTTPServer):
    """Sends one body, the second half when it may go on; counts how often it is asked, and by whom."""

    daemon_threads = True
    body, cut, asked, agents = b"", False, 0, ()

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.go_on = threading.Event()
        self.halfway = threading.Event()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/file_downloaded"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self.server.asked += 1
        self.server.agents += (self.headers["User-Agent"],)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body[: len(self.server.body) // 2])
        self.wfile.flush()
        self.server.halfway.set()
        if self.server.cut:
            return
        self.server.go_on.wait(30)
        self.wfile.write(self.server.body[len(self.server.body) // 2 :])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        serving.go_on.set()
        yield serving
        serving.go_on.set()
        serving.shutdown()


@pytest.fixture
def stand_in(small, server, monkeypatch):
    """Put a small file in the place of a published one, on the server, with its own checksum."""

    def put(name: str, **changes) -> published.Remote:
        server.body = small[0][name].read_bytes()
        right = {"address": server.address, "sha256": hashlib.sha256(server.body).hexdigest()}
        remote = replace(getattr(published, name), **{**right, **changes})
        monkeypatch.setattr(published, name, remote)
        monkeypatch.setenv("no_proxy", "*")
        return remote

    return put


@pytest.mark.parametrize("name", LOADERS)
def test_downloaded_once_and_read(name, small, server, stand_in, tmp_path):
    remote, folder = stand_in(name), tmp_path / "new" / "cache"
    adata = LOADERS[name](folder=folder, progress=False)
    again = LOADERS[name](folder=folder, progress=False)
    assert server.asked == 1
    assert [path.name for path in folder.iterdir()] == [remote.name]
    assert (folder / remote.name).read_bytes() == server.body
    for found in (adata, again):
        np.testing.assert_allclose(found.obsm["X_pca"], small[1], rtol=1e-6)
        times = np.arange(N) % 5 if name == "EMBRYOID_BODIES" else np.array([2, 3, 4, 7])[np.arange(N) % 4]
        assert found.obs["time"].dtype == np.float64
        np.testing.assert_array_equal(found.obs["time"], times)
        assert found.X is None
    # A server of one of the files refuses the name that urllib gives itself.
    assert not any("urllib" in agent for agent in server.agents)


def test_what_the_file_knows_of_cells_is_kept(small):
    adata = published._openproblems(small[0]["CITE"])
    assert list(adata.obs_names[:2]) == ["CITE 0", "CITE 1"]
    assert list(adata.obs["cell_type"][:2]) == ["MasP", "HSC"]


def test_it_is_a_time_course(stand_in, tmp_path):
    stand_in("CITE")
    adata = ch.datasets.openproblems_cite(folder=tmp_path, progress=False)
    cells = ch.read(adata, coordinates="X_pca", dims=5, time="time", label="cell_type")
    assert cells.layout.in_role("time").times == (2.0, 3.0, 4.0, 7.0)


def test_the_cache_is_the_users(stand_in, server, tmp_path, monkeypatch):
    remote = stand_in("EMBRYOID_BODIES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    ch.datasets.embryoid_bodies(progress=False)
    assert (tmp_path / "xdg" / "chreode" / remote.name).is_file()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert published._cache() == tmp_path / ".cache" / "chreode"


@pytest.mark.parametrize("name", LOADERS)
def test_a_file_at_hand_needs_no_network(name, small, server, stand_in, tmp_path, monkeypatch):
    stand_in(name, address="http://127.0.0.1:1/nothing")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    adata = LOADERS[name](small[0][name])
    assert adata.n_obs == N
    assert LOADERS[name](path=str(small[0][name])).n_obs == N
    assert server.asked == 0
    assert not list(tmp_path.iterdir())


def test_a_file_at_hand_with_another_checksum_is_refused(stand_in, tmp_path):
    remote, path = stand_in("EMBRYOID_BODIES"), tmp_path / "mine.npz"
    np.savez(path, pcs=np.zeros((3, 2)), sample_labels=np.arange(3))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ch.InputError, match=rf"{remote.sha256}; found {found} at .*mine\.npz\. .*path= out"):
        ch.datasets.embryoid_bodies(path)
    assert path.is_file()  # it is the user's


@pytest.mark.parametrize("missing", ["nowhere.npz", "."])
def test_no_file_at_hand(missing, tmp_path):
    with pytest.raises(ch.InputError, match=r"Expected eb_velocity_v5\.npz; found .* at .*Download https://"):
        ch.datasets.embryoid_bodies(tmp_path / missing)


def test_a_download_with_another_checksum_is_not_kept(stand_in, server, tmp_path):
    stand_in("CITE", sha256="0" * 64)
    found = hashlib.sha256(server.body).hexdigest()
    with pytest.raises(
        ch.InputError, match=rf"{'0' * 64}; found {found} at http://.*Nothing was kept.*path="
    ):
        ch.datasets.openproblems_cite(folder=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_kept_file_that_changed_is_refused(stand_in, server, tmp_path):
    remote = stand_in("CITE")
    ch.datasets.openproblems_cite(folder=tmp_path, progress=False)
    with (tmp_path / remote.name).open("r+b") as file:
        file.write(b"damage")
    with pytest.raises(ch.InputError, match=r"found \w{64} at .*Delete it, and it is downloaded again\."):
        ch.datasets.openproblems_cite(folder=tmp_path, progress=False)
    (tmp_path / remote.name).unlink()
    assert ch.datasets.openproblems_cite(folder=tmp_path, progress=False).n_obs == N
    assert server.asked == 2


def test_no_network(stand_in, tmp_path):
    address = "http://127.0.0.1:1/nothing"  # where no server listens
    remote = stand_in("MULTI", address=address)
    with pytest.raises(ch.InputError, match=rf"{remote.name} from {re.escape(address)} .*path=") as caught:
        ch.datasets.openproblems_multi(folder=tmp_path, progress=False)
    assert "found: <urlopen error" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be(stand_in, tmp_path):
    stand_in("MULTI")
    (tmp_path / "file").write_text("")
    with pytest.raises(ch.InputError, match="Expected to download"):
        ch.datasets.openproblems_multi(folder=tmp_path / "file" / "folder", progress=False)


def test_a_connection_that_ends_early(stand_in, server, tmp_path):
    stand_in("MULTI")
    server.cut = True
    size = len(server.body)
    with pytest.raises(ch.InputError, match=f"ended after {size // 2:,} of {size:,} bytes"):
        ch.datasets.openproblems_multi(folder=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


# What is started in the background of a shell may ignore interruptions; a command in front does not.
KILLED = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from chreode.io import published
address, sha256, folder = sys.argv[1:]
published.EMBRYOID_BODIES = published.Remote("eb_velocity_v5.npz", address, sha256)
published.embryoid_bodies(folder=folder, progress=False)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_download_leaves_no_file_and_is_made_good(how, stand_in, server, tmp_path):
    remote = stand_in("EMBRYOID_BODIES")
    server.go_on.clear()
    arguments = [remote.address, remote.sha256, str(tmp_path)]
    with subprocess.Popen([sys.executable, "-c", KILLED, *arguments], stderr=subprocess.DEVNULL) as loading:
        assert server.halfway.wait(30)
        while not list(tmp_path.rglob("*.npz")):  # until it began to write
            time.sleep(0.01)
        loading.send_signal(how)
        assert loading.wait(30) != 0
    assert not (tmp_path / remote.name).exists()
    if how == signal.SIGINT:
        assert not list(tmp_path.iterdir())
    server.go_on.set()
    assert ch.datasets.embryoid_bodies(folder=tmp_path, progress=False).n_obs == N


def test_progress_is_shown_unless_it_is_not_wanted(stand_in, tmp_path, capfd):
    stand_in("EMBRYOID_BODIES")
    ch.datasets.embryoid_bodies(folder=tmp_path / "quiet", progress=False)
    assert capfd.readouterr() == ("", "")
    ch.datasets.embryoid_bodies(folder=tmp_path / "loud")
    shown = capfd.readouterr().err
    assert "eb_velocity_v5.npz: 100%" in shown


def test_code_in_a_file_is_never_run(stand_in, server, tmp_path):
    """Even a file with the right checksum is read as numbers alone."""
    path = tmp_path / "code.npz"
    np.savez(path, pcs=np.zeros((2, 2)), sample_labels=np.array([0, "one"], dtype=object))
    stand_in("EMBRYOID_BODIES", sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match="allow_pickle"):
        ch.datasets.embryoid_bodies(path)


def test_checksums_and_addresses_are_of_the_published_files():
    known = [published.EMBRYOID_BODIES, published.CITE, published.MULTI]
    assert all(re.fullmatch(r"[0-9a-f]{64}", remote.sha256) for remote in known)
    assert all(remote.address.startswith("https://") for remote in known)
    assert len({remote.sha256 for remote in known}) == len({remote.address for remote in known}) == 3
