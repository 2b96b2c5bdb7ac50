"""Drains a log to rotel, a collector that is not ours, and compares event by event what rotel holds with the log.

    collector.py AUTONOMY FIXTURES WORK     the whole of it; 80 s at most
    collector.py calls                      the calls that make the log; started by `autonomy run`

rotel answers the drain and passes on what it took, in its own encoding, to a receiver here, where OpenTelemetry's own
protobuf classes read it. Each log is drained in both encodings, with gzip and without, each time from a fresh copy to a
fresh rotel.
"""

import gzip
import http.server
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.request

DEADLINE = time.monotonic() + 80
HOST = "127.0.0.1"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
# With a trace that is sampled, one that is not, none, and none that is valid.
TRACEPARENTS = [f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00", None, f"00-{'0' * 32}-{SPAN}-01"]
CALLS = [
    (200, "tool.echo", {"message": "hello"}),
    (200, "tool.echo", {"message": 'grüße 你好 😀 \u2028 \x00 \x7f "quoted" \\ \r\n </script>'}),
    (200, "tool.echo", {"message": "x" * 5000}),
    (403, "tool.shell", {"argv": ["id"]}),
    (403, "tool.unknown", {"n": 9007199254740993, "f": 1e-7, "deep": [[{}], None]}),
    (400, "tool.echo", {}),
]
ROUNDS = 2
VARIANTS = [[e, *c] for e in ("protobuf", "json") for c in ([], ["--no-compression"])]


def calls():
    """Asks for each call with each traceparent, `ROUNDS` times."""
    urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))
    for _ in range(ROUNDS):
        for traceparent in TRACEPARENTS:
            for wanted, kind, params in CALLS:
                headers = {"Content-Type": "application/json"} | ({"traceparent": traceparent} if traceparent else {})
                body = json.dumps({"kind": kind, "params": params, "agent": "interop"}).encode()
                request = urllib.request.Request(os.environ["AUTONOMY_RUNTIME_URL"] + "/v1/tool", body, headers)
                try:
                    with urllib.request.urlopen(request, timeout=20) as answer:
                        status = answer.status
                except urllib.error.HTTPError as refusal:
                    status = refusal.code
                if status != wanted:
                    sys.exit(f"{kind} {json.dumps(params)[:80]}: status {status}, not {wanted}")


def fail(what):
    sys.exit(f"interop: FAILED: {what}")


def left():
    """Seconds until everything here must be over."""
    seconds = DEADLINE - time.monotonic()
    if seconds <= 0:
        fail("the comparison with rotel did not end in time")
    return seconds


def run(*command):
    """What a command printed; its failure and its taking too long are ours."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=left())
    except subprocess.TimeoutExpired:
        fail(f"no end of: {' '.join(map(str, command))}")
    if done.returncode != 0:
        words = (done.stdout + done.stderr).decode(errors="replace").strip()
        fail(f"exit {done.returncode} of: {' '.join(map(str, command))}\n{words}")
    return done.stdout


class Receiver(http.server.ThreadingHTTPServer):
    """Where rotel passes on what it took."""

    def __init__(self):
        super().__init__((HOST, 0), Handler)
        self.taken, self.troubles, self.lock = [], [], threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def records(self):
        with self.lock:
            if self.troubles:
                fail(f"what rotel passed on: {self.troubles[0]}")
            return received(self.taken)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        try:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path != "/v1/logs":
                raise ValueError(f"path {self.path}")
            request = ExportLogsServiceRequest.FromString(body)
        except Exception as trouble:  # told by the main thread, which otherwise would only miss records
            with self.server.lock:
                self.server.troubles.append(repr(trouble))
            return self.answer(400)
        with self.server.lock:
            self.server.taken.extend(request.resource_logs)
        self.answer(200)

    def answer(self, status):
        # An empty body is an ExportLogsServiceResponse without a partial success.
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Rotel:
    """One rotel for one drain; once started, `endpoint` is where it takes OTLP/HTTP."""

    def __init__(self, work):
        self.work, self.log, self.process = work, work / "rotel.log", None

    def start(self, agent, passes_to):
        # No variable of the caller configures it. Its libpython may lie beside the interpreter.
        paths = [os.environ.get("LD_LIBRARY_PATH", ""), sysconfig.get_config_var("LIBDIR") or ""]
        environment = {"PATH": os.defpath, "LD_LIBRARY_PATH": ":".join(filter(None, paths))}
        for _ in range(5):  # between our looking for a free port and its taking it, another may have come
            http_port, grpc_port = free_ports(2)
            options = {
                "otlp-http-endpoint": f"{HOST}:{http_port}",
                "otlp-grpc-endpoint": f"{HOST}:{grpc_port}",
                "exporter": "otlp",
                "otlp-exporter-protocol": "http",
                "otlp-exporter-endpoint": f"http://{HOST}:{passes_to}",
                "otlp-exporter-request-timeout": "30s",
                "pid-file": self.work / "rotel.pid",
                "log-file": self.work / "rotel-daemon.log",
            }
            command = [agent, "start", *(f"--{name}={value}" for name, value in options.items())]
            with self.log.open("wb") as log:
                try:
                    self.process = subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
                    )
                except OSError as trouble:
                    fail(f"rotel does not start: {trouble}")
            self.endpoint = f"http://{HOST}:{http_port}"
            if self.answers(http_port):
                return
        hint = "\nOn Debian and Ubuntu: apt-get install libpython3-dev" if "libpython" in self.words() else ""
        fail(f"rotel does not start: {self.words()}{hint}")

    def answers(self, port):
        """Whether it listens; False when it ended."""
        until = time.monotonic() + min(15, left())
        while self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex((HOST, port)) == 0:
                    time.sleep(0.05)
                    return self.process.poll() is None
            if time.monotonic() > until:
                self.end()
                return False
            time.sleep(0.02)
        return False

    def words(self):
        return self.log.read_text(errors="replace").strip()[-2000:]

    def stop(self):
        """Lets it pass on what it still has, and end."""
        self.process.terminate()
        try:
            status = self.process.wait(min(10, left()))
        except subprocess.TimeoutExpired:
            fail(f"rotel does not end: {self.words()}")
        if status != 0:
            fail(f"rotel ended with {status}: {self.words()}")

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def free_ports(count):
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def drain(autonomy, agent, log, wanted, variant, work):
    """Drains a copy of the log through rotel; returns the records that came out behind it."""
    folder = work / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(log, folder)
    events = sum(one["attributes"]["autonomy.kind"][1] != "action" for one in wanted)
    receiver, rotel = Receiver(), Rotel(work)
    try:
        rotel.start(agent, receiver.server_port)
        command = [autonomy, "telemetry", "drain", "--dir", folder, "--endpoint", rotel.endpoint, "--batch", "7"]
        for sent in (events, 0):  # the second time nothing is left: rotel's answer was taken for a success
            said = run(*command, "--encoding", *variant).decode()
            check(said.endswith(f"drain complete: {sent} events sent\n"), f"what the drain said: {said!r}")
        check(not (folder / "rejected").exists(), f"nothing rejected in {folder}")
        until = time.monotonic() + min(20, left())
        while len(receiver.records()) < len(wanted) and time.monotonic() < until:
            time.sleep(0.05)
        rotel.stop()  # what it had twice would come now at the latest
        return receiver.records()
    finally:
        rotel.end()
        receiver.shutdown()
        receiver.server_close()


def make_logs(autonomy, fixtures, work):
    """A log of calls just made, and the golden one, which has every kind and a range that was lost."""
    run(autonomy, "run", "--dir", work / "state", "--", sys.executable, __file__, "calls")
    golden = work / "golden"
    golden.mkdir()
    for name in ("telemetry.wal", "telemetry.base", "telemetry.safe_seq"):  # not telemetry.pos: nothing is delivered
        shutil.copyfile(fixtures / "wal" / name, golden / name)
    return {"calls": work / "state" / "telemetry", "golden": golden}


def made_of(wanted):
    """What the log of the calls has to hold, so that what is compared is worth it."""
    times = ROUNDS * len(TRACEPARENTS)
    for status, name in ((200, "action"), (400, "error")):
        should = times * sum(s == status for s, _, _ in CALLS)
        check(sum(one["attributes"]["autonomy.kind"][1] == name for one in wanted) == should, f"{should} x {name}")
    denies = sum(one["severity_text"] == "WARN" for one in wanted)
    check(denies == times * sum(s == 403 for s, _, _ in CALLS), "every deny has its decision")
    traces = {(one["trace_id"], one["span_id"]) for one in wanted}
    check(traces == {(TRACE, SPAN), ("", "")}, "calls with a trace and without")
    check(any('{"blake3":' in one["body"][1] for one in wanted), "a value that is recorded as its hash")


def main():
    autonomy, fixtures, work = (pathlib.Path(given).resolve() for given in sys.argv[1:])
    agent = pathlib.Path(sysconfig.get_path("platlib"), "rotel", "rotel-agent")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("interop: FAILED: ended from outside"))
    compared = tried = failed = 0
    for name, log in make_logs(autonomy, fixtures, work).items():
        wanted = expected(log, run(autonomy, "telemetry", "export", "--dir", log))
        if name == "calls":
            made_of(wanted)
        for variant in VARIANTS:
            found = drain(autonomy, agent, log, wanted, variant, work)
            lines = differences(wanted, found)
            for line in lines[:10]:
                print(f"interop: FAILED: {name}, {' '.join(variant)}: {line}")
            failed += len(lines)
            compared += len(wanted)
            if not lines:
                tried += can_fail(wanted, found)
    print(f"interop: rotel, {compared} records compared with the log, {failed} differences; {tried} changes noticed")
    return 1 if failed or not compared else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["calls"]:
        sys.exit(calls())
    from formats import check
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from records import can_fail, differences, expected, received

    sys.exit(main())
