"""Nodes as containers run them: environment only, names instead of addresses, a read-only root.

Where the machine allows it (root, `ip netns`, bridges) each node has a network namespace of its own
on one bridge, with its names in /etc/netns/NAME/hosts, and a mount namespace in which all but its
volume is read-only. Elsewhere (`why_not`) they are plain processes on loopback.
"""

import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.processes import (
    ROOT,
    Ended,
    Warm,
    environment,
    free_base_port,
    is_running,
    wait_for,
)

PORT = 7400
NETWORK = "10.213"
ASK_SECONDS = 0.1
"""Between two questions about what is waited for, each of which is a process."""


@functools.cache
def why_not() -> str:
    """Why nodes cannot have namespaces of their own here; "" if they can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if shutil.which("ip") is None or shutil.which("setpriv") is None:
        return "`ip` or `setpriv` is not installed"
    name = f"skv{secrets.token_hex(3)}"
    for command in (("netns", "add", name), ("link", "add", name, "type", "bridge")):
        done = subprocess.run(["ip", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            return f"ip {' '.join(command)}: {done.stderr.strip()}"
    run("ip", "link", "del", name)
    done = subprocess.run(
        ["ip", "netns", "exec", name, "mount", "-o", "remount,bind,ro", "/"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    run("ip", "netns", "del", name)
    return f"a read-only root: {done.stderr.strip()}" if done.returncode else ""


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


class Pods:
    """Named places to run nodes in, `kv-0`, `kv-1`, ..., and `client` for who uses them."""

    def __init__(self, directory: Path, count: int, settings: Mapping[str, str]) -> None:
        self.directory = directory
        self.names = [f"kv-{ordinal}" for ordinal in range(count)]
        self.settings = dict(settings)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.isolated = not why_not()
        self._tag = secrets.token_hex(2)
        self._next_host = 10
        self._base_port = 0 if self.isolated else free_base_port(count)
        self._client: Warm | None = None
        self.addresses: dict[str, str] = {}
        if self.isolated:
            run("ip", "link", "add", self._bridge, "type", "bridge")
            run("ip", "link", "set", self._bridge, "up")
            for name in (*self.names, "client"):
                self._add(name)
        for name in self.names:
            self.volume(name).mkdir(parents=True)

    @property
    def _bridge(self) -> str:
        return f"skv{self._tag}"

    def namespace(self, name: str) -> str:
        return f"skv{self._tag}-{name}"

    def volume(self, name: str) -> Path:
        """What a pod keeps."""
        return self.directory / name

    def client_of(self, name: str) -> str:
        """Where a node takes clients' calls: a name."""
        if self.isolated:
            return f"{name}:{PORT}"
        return f"localhost:{self._base_port + 10 * self.names.index(name)}"

    @property
    def seeds(self) -> str:
        return ",".join(map(self.client_of, self.names))

    # The network

    def _add(self, name: str) -> None:
        space, index = self.namespace(name), len(self.addresses)
        outside, inside = f"sk{self._tag}o{index}", f"sk{self._tag}i{index}"
        Path("/etc/netns", space).mkdir(parents=True)
        run("ip", "netns", "add", space)
        run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside)
        run("ip", "link", "set", outside, "master", self._bridge, "up")
        run("ip", "link", "set", inside, "netns", space, "name", "eth0")
        run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "-n", space, "link", "set", "eth0", "up")
        self.give_address(name)

    def give_address(self, name: str) -> None:
        """Another address, as a pod gets that is scheduled anew; its name leads there from now."""
        space = self.namespace(name)
        run("ip", "-n", space, "addr", "flush", "dev", "eth0")
        self._next_host += 1
        self.addresses[name] = f"{NETWORK}.{int(self._tag[:2], 16)}.{self._next_host}"
        run("ip", "-n", space, "addr", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        lines = ["127.0.0.1 localhost", *(f"{at} {n}" for n, at in self.addresses.items())]
        for other in self.addresses:
            # In place: a file put there instead would not be seen where this one is mounted.
            path = Path("/etc/netns", self.namespace(other), "hosts")
            with path.open("w") as hosts:
                hosts.write("\n".join([*lines, ""]))

    # Processes

    def start(self, name: str, **more: str) -> subprocess.Popen[bytes]:
        """`shardkv auto`, as the image starts it."""
        assert name not in self.processes or self.processes[name].poll() is not None
        given = {
            "SHARDKV_NODE": name,
            "SHARDKV_CLIENT": self.client_of(name),
            "SHARDKV_SEEDS": self.seeds,
            "SHARDKV_DATA": str(self.volume(name) / "node"),
            "SHARDKV_LOG_TO": "stderr",
            "SHARDKV_BALLAST_BYTES": "65536",
            "PYTHONDONTWRITEBYTECODE": "1",
            **({"SHARDKV_LISTEN_HOST": "0.0.0.0"} if self.isolated else {}),
            **self.settings,
            **more,
        }
        words = [sys.executable, "-m", "shardkv", "auto"]
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                self.inside(name, words, self.volume(name)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=environment(**given),
            )
        self.processes[name] = process
        return process

    def inside(self, name: str, words: list[str], volume: Path | None = None) -> list[str]:
        """A command line that runs in a pod; with a volume, its root is read-only and it has no
        capability. Each step replaces the one before: the process is ours from the beginning."""
        if not self.isolated:
            return words
        prefix = ["ip", "netns", "exec", self.namespace(name)]
        if volume is None:
            return [*prefix, *words]
        script = (
            'mount --bind "$1" "$1" && mount -o remount,bind,ro / && shift && exec setpriv '
            '--inh-caps=-all --bounding-set=-all --no-new-privs "$@"'
        )
        return [*prefix, "sh", "-c", script, "sh", str(volume), *words]

    def probe(self, name: str, what: str) -> int:
        """`shardkv probe`, as the image's health check; its exit status."""
        http = self.client_of(name).replace(str(PORT), str(PORT + 2))
        if not self.isolated:
            host, _, port = self.client_of(name).rpartition(":")
            http = f"{host}:{int(port) + 2}"
        ended = self._ask("probe", what, "--http", http)
        self.said = ended.out.decode() + ended.err
        return ended.status

    def command(self, *words: str) -> str:
        """A `shardkv` command, run by the client, that must end well; what it printed."""
        ended = self._ask(*words, SHARDKV_ENDPOINTS=self.seeds)
        assert ended.status == 0, (words, ended.err, self.logs())
        return ended.out.decode()

    def _ask(self, *words: str, **more: str) -> Ended:
        """A command line at the client's place. What is waited for is asked many times, and would
        take a core from the nodes if each time all were imported anew."""
        if self._client is None:
            self._client = Warm(self.directory, prefix=self.inside("client", []))
        return self._client.run(*words, **self.settings, **more)

    def wait_ready(self, *names: str, seconds: float = 90) -> None:
        for name in names or self.names:
            wait_for(
                lambda name=name: self.probe(name, "ready") == 0,  # type: ignore[misc]
                f"{name} ready",
                seconds,
                pause=ASK_SECONDS,
            )

    def terminate(self, name: str) -> int:
        """SIGTERM, and the exit status."""
        self.processes[name].send_signal(signal.SIGTERM)
        return self.processes[name].wait(30)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def cluster_ids(self) -> set[str]:
        """Of the directories that there are."""
        from shardkv import nodedir

        volumes = [self.volume(name) / "node" for name in self.names]
        return {nodedir.identity(v).cluster.hex() for v in volumes if nodedir.exists(v)}

    def logs(self) -> str:
        tails = []
        for name in self.names:
            path = self.directory / f"{name}.log"
            lines = path.read_text().splitlines()[-20:] if path.exists() else []
            tails += [f"--- {name} ---", *(line[:300] for line in lines)]
        return "\n".join(tails)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        for process in self.processes.values():
            if process.poll() is None and is_running(process.pid):
                process.kill()
            process.wait()
        for name in self.addresses:
            subprocess.run(["ip", "netns", "del", self.namespace(name)], check=False)
            shutil.rmtree(Path("/etc/netns", self.namespace(name)), ignore_errors=True)
        if self.isolated:
            subprocess.run(["ip", "link", "del", self._bridge], check=False)


LOAD = """
import asyncio, json, sys, time
from shardkv import aio
from shardkv.errors import OutcomeUnknown, ShardKVError
from shardkv.tls import of_environment
from shardkv.config import environment

async def worker(kv, number, until, seen):
    key, acked, tried, last = b"worker-%d" % number, 0, 0, time.monotonic()
    while not until.is_set():
        tried += 1
        try:
            await kv.put(key, b"%d" % tried, timeout=20)
            acked = tried
            found = int(await kv.get(key, timeout=20) or b"0")
            assert found == tried, f"{key!r}: wrote {tried}, read {found}"
        except OutcomeUnknown:
            seen["unknown"] += 1
        except ShardKVError as error:
            seen["failed"].append(str(error))
        now = time.monotonic()
        seen["gap"], last = max(seen["gap"], now - last), now
        seen["operations"] += 1
        await asyncio.sleep(0.01)
    found = int(await kv.get(key, timeout=60) or b"0")
    seen["lost"] += not acked <= found <= tried

async def main():
    seen = {"operations": 0, "unknown": 0, "failed": [], "gap": 0.0, "lost": 0}
    until = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, until.set)
    async with aio.connect(sys.argv[1], timeout=30, tls=of_environment(environment())) as kv:
        await kv.put(b"begun", b"")
        print("begun", flush=True)
        await asyncio.gather(*(worker(kv, n, until, seen) for n in range(6)))
    print(json.dumps(seen), flush=True)

asyncio.run(main())
"""


class CheckedLoad:
    """Six clients that each write one key and read it back, from the client's place, until told to
    end: then every key must hold what was acknowledged last, or what was tried after it."""

    def __init__(self, pods: Pods) -> None:
        self._process = subprocess.Popen(
            pods.inside("client", [sys.executable, "-c", LOAD, pods.seeds]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment(**pods.settings),
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"begun\n"

    def end(self) -> dict[str, int]:
        out, _ = self._process.communicate(b"end\n", timeout=120)
        assert self._process.returncode == 0
        found: dict[str, int] = json.loads(out)
        return found

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
