"""A Ray cluster in its own process, which reads orders from stdin.

`add` adds a node with one core, `remove NODE` removes it, `kill NODE` kills all its processes. The first node has no
cores and does no work. All nodes listen on 127.0.0.1.
"""

import contextlib
import os
import shutil
import sys
import tempfile

folder = tempfile.mkdtemp(prefix="ray-")  # short: paths of sockets must be
os.environ |= {
    "RAY_TMPDIR": folder,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's switch for machines where it stays on the loopback address
}

import psutil  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

NODE = {"object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"}


def kill(node):
    """Kill a node's processes and its workers, which would otherwise live on for a moment."""
    daemon = psutil.Process(node.all_processes["raylet"][0].process.pid)
    workers = daemon.children(recursive=True)
    for process in (daemon, *workers):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(workers, timeout=60)


answers, sys.stdout = sys.stdout, sys.stderr
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **NODE})
nodes = {}
answers.write(f"{cluster.address}\n")
answers.flush()
try:
    for line in sys.stdin:
        order, _, name = line.strip().partition(" ")
        if order == "add":
            node = cluster.add_node(wait=False, num_cpus=1, **NODE)
            cluster.wait_for_nodes(timeout=600)
            name = node.node_id
            nodes[name] = node
        else:
            node = nodes.pop(name)
            if order == "kill":
                kill(node)
            cluster.remove_node(node, allow_graceful=order == "remove")
        answers.write(f"{name}\n")
        answers.flush()
finally:
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
