import socket
import sys

import pytest

from tfcompress.tuning import on_ray
from tfcompress.tuning.executors import choose_executor
from tfcompress.tuning.local import LocalExecutor
from tfcompress.tuning.on_ray import Cluster
from tfcompress.vocabulary.errors import SearchError


def test_the_local_one_has_a_worker_unless_told_otherwise(tmp_path):
    for workers, expected in ((None, 1), (3, 3)):
        with choose_executor("local", workers=workers)(tmp_path / "shared") as executor:
            assert isinstance(executor, LocalExecutor)
            assert executor.workers == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "raid"}, "executor must be one of local, ray. Received: raid"),
        ({"name": "local", "workers": 0}, "workers must be at least 1"),
        ({"name": "local", "ray_address": "a:1", "gpus_per_trial": 0}, "ray_address, gpus_per_trial: of the executor"),
        ({"name": "ray", "ray_address": "10.0.0.1"}, "must be host:port, ray://host:port or auto. Received: 10.0.0.1"),
        (
            {"name": "ray", "cpus_per_trial": 0, "gpus_per_trial": 1.5},
            "cpus_per_trial .*\ngpus_per_trial must be whole",
        ),
    ],
)
def test_what_no_executor_can_do_is_refused(arguments, words):
    with pytest.raises(SearchError, match=words):
        choose_executor(**arguments)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SearchError, match=r"pip install 'tfcompress\[ray\]'"):
        choose_executor("ray", ray_address="127.0.0.1:1")


def nodes_of(monkeypatch, *resources):
    monkeypatch.setattr(Cluster, "_nodes", lambda self: list(resources))


def test_a_cluster_has_room_for_as_many_trials_as_fit_on_its_nodes(monkeypatch):
    nodes_of(monkeypatch, {"CPU": 8.0, "GPU": 1.0, "memory": 1e9}, {"CPU": 3.0}, {"memory": 1e9})
    assert Cluster().room() == 11
    assert Cluster(cpus_per_trial=2).room() == 5
    assert Cluster(cpus_per_trial=4).room() == 2
    assert Cluster(cpus_per_trial=1, gpus_per_trial=0.25).room() == 4
    with pytest.raises(SearchError, match="9 CPUs and 0 GPUs; the nodes have: 8 CPUs and 1 GPUs; 3 CPUs and 0 GPUs"):
        Cluster(cpus_per_trial=9).room()


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://localhost:{}", "127.0.0.1:99999"])
def test_an_address_where_nobody_answers_is_refused_at_once(address, free_port):
    pytest.importorskip("ray", reason="Ray is an extra, and not installed: tfcompress[ray]")
    address = address.format(free_port)
    with pytest.raises(SearchError, match=rf"No Ray cluster answers at {address}: .*Remedy: `ray start --head`"):
        choose_executor("ray", ray_address=address)


def test_a_port_where_something_else_than_ray_answers_is_refused_in_time(monkeypatch):
    pytest.importorskip("ray", reason="Ray is an extra, and not installed: tfcompress[ray]")
    monkeypatch.setattr(on_ray, "_JOIN_S", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(
            SearchError, match=f"Connecting to the Ray cluster at {address}.*time limit of 2 s(.|\n)*`ray start --head`"
        ):
            choose_executor("ray", ray_address=address)


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
