"""One model for all windows: who hosts, what crosses the socket, and what happens when the host dies."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from lacuna_ls.engine import frames, host, shared
from lacuna_ls.engine.errors import EngineError
from lacuna_ls.engine.problem import NOISE, Canvas, CanvasProblem, CanvasResult, EngineStatus, Timings
from lacuna_ls.engine.shared import SharedEngine, private_folder

SUPPORT = Path(__file__).resolve().parent.parent / "support"
sys.path.insert(0, str(SUPPORT))

from fake_engine import FakeEngine  # noqa: E402

pytestmark = pytest.mark.skipif(not shared.is_supported(), reason="needs Unix sockets")


def problem(kind=1, **more):
    return CanvasProblem((kind, 2, 3), (Canvas((NOISE, 5), (False, True)), Canvas.free(3)), **more)


@pytest.fixture
def join(tmp_path):
    """join(load=FakeEngine) -> a SharedEngine of this process; all are closed at the end."""
    engines = []

    def make(load=FakeEngine, key="test"):
        engine = SharedEngine(load, key, tmp_path)
        engines.append(engine)
        return engine

    yield make
    for engine in reversed(engines):
        engine.close()


class Process:
    """Another process that shares the engine."""

    def __init__(self, folder, load_s=0.0):
        command = [sys.executable, "-P", str(SUPPORT / "share_engine.py"), str(folder), str(load_s)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def joined(self):
        return json.loads(self.process.stdout.readline())

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, line):
        self.say(line)
        return self.hear()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGSTOP)
        # it may still answer until all of its threads have stopped
        os.waitpid(self.process.pid, os.WUNTRACED)

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def processes(tmp_path):
    made = []

    def make(load_s=0.0):
        made.append(Process(tmp_path, load_s))
        return made[-1]

    yield make
    for each in made:
        each.end()


def loads(folder):
    return [int(line.split()[0]) for line in (folder / "loads").read_text().splitlines()]


RESULTS = st.builds(
    CanvasResult,
    tokens=st.lists(st.integers(0, 10**6)).map(tuple),
    entropy=st.lists(st.floats(allow_nan=False)).map(tuple),
    logprob=st.lists(st.floats(allow_nan=False)).map(tuple),
    end=st.integers(0, 300),
    steps=st.integers(0, 50),
    is_finished=st.booleans(),
    is_cancelled=st.booleans(),
    timings=st.builds(Timings, prefill_ms=st.floats(0, 1e6), num_cached=st.integers(0, 10**6)),
)


def through(value):
    data = frames.pack(value)
    at = 0

    def read(number):
        nonlocal at
        at += number
        return data[at - number : at]

    return frames.read_frame(read)


@given(result=RESULTS)
def test_results_cross_unchanged(result):
    assert frames.result_from(through({"r": frames.result_value(result)})["r"]) == result


@pytest.mark.parametrize(
    "given_problem",
    [
        problem(),
        problem(deadline_ms=5.5, seed=9, decoding="verify", banned=(1, 2), stop=(3,), max_steps=2),
        problem(opening=(((4, 1), (5, 2)), ((6, 2),))),
    ],
    ids=["defaults", "everything set", "an opening"],
)
def test_problems_cross_unchanged(given_problem):
    assert frames.problem_from(through({"p": frames.problem_value(given_problem)})["p"]) == given_problem


@pytest.mark.parametrize(
    "value",
    [None, 5, {}, {"prompt": [1]}, {**frames.problem_value(problem()), "prompt": ["x"]}, {"canvases": 1, "prompt": []}],
    ids=["nothing", "a number", "empty", "no canvases", "tokens that are text", "nonsense"],
)
def test_a_problem_that_is_none_is_refused(value):
    with pytest.raises(frames.FrameError):
        frames.problem_from(value)


@pytest.mark.parametrize(
    "data",
    [struct.pack(">I", 1 << 31), struct.pack(">I", 3) + b"\xc1\xc1\xc1", struct.pack(">I", 1) + b"\x05"],
    ids=["too long", "not msgpack", "no object"],
)
def test_a_frame_that_is_none_is_refused(data):
    stream = iter([data[:4], data[4:]])
    with pytest.raises(frames.FrameError):
        frames.read_frame(lambda number: next(stream))


def test_the_first_hosts_and_the_next_attach(join):
    made = []

    def load():
        made.append(FakeEngine())
        return made[-1]

    first, second, third = join(load), join(load), join(load)
    assert [each.is_host for each in (first, second, third)] == [True, False, False]
    assert len(made) == 1
    for engine in (first, second, third):
        results = engine.fill(problem())
        assert [result.tokens for result in results] == [(7, 5), (7, 7, 7)]
        assert engine.prefill((1, 2)).num_prefilled == 2
        assert engine.status().model == "fake"
    assert made[0].calls == ["fill", "prefill"] * 3
    assert first.status().detail == "hosted here for 2 more"
    assert second.status().detail == f"hosted by process {os.getpid()}"


def test_other_keys_share_nothing(join):
    assert join(key="a").is_host
    assert join(key="b").is_host


def test_calls_are_one_at_a_time(join):
    made = []

    def load():
        made.append(FakeEngine())
        return made[-1]

    engines = [join(load) for _ in range(4)]
    threads = [threading.Thread(target=lambda e=e: [e.fill(problem()) for _ in range(20)]) for e in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0].most_inside == 1
    assert made[0].calls.count("fill") == 80


@pytest.mark.parametrize("which", [0, 1], ids=["in the host", "attached"])
def test_a_cancel_stops_the_engine(join, which):
    made = []

    def load():
        made.append(FakeEngine())
        return made[-1]

    engines = [join(load), join(load)]
    cancelled = threading.Event()
    threading.Timer(0.05, cancelled.set).start()
    begun = time.monotonic()
    results = engines[which].fill(problem(2), cancelled.is_set)
    assert all(result.is_cancelled for result in results)
    assert time.monotonic() - begun < 0.29
    until = time.monotonic() + 1
    while "cancelled" not in made[0].calls and time.monotonic() < until:
        time.sleep(0.005)
    assert made[0].calls[-1] == "cancelled"
    # the next call is not hit by the old cancel
    assert not engines[which].fill(problem())[0].is_cancelled


def test_a_cancel_while_waiting_for_the_turn(join):
    first, second = join(), join()
    busy = threading.Thread(target=lambda: first.fill(problem(2)))
    busy.start()
    time.sleep(0.05)
    begun = time.monotonic()
    assert second.fill(problem(), lambda: time.monotonic() - begun > 0.05)[0].is_cancelled
    assert time.monotonic() - begun < 0.2
    busy.join()


def test_errors_cross_with_their_words(join):
    first, second = join(), join()
    for engine in (first, second):
        with pytest.raises(EngineError, match="told to fail"):
            engine.fill(problem(3))
    with pytest.raises(EngineError, match="ZeroDivisionError: a bug"):
        second.fill(problem(4))
    assert second.fill(problem())[0].is_finished


@pytest.mark.parametrize("which", [0, 1], ids=["in the host", "attached"])
def test_the_memory_is_given_back_for_all_windows(join, which):
    made = []

    def load():
        made.append(FakeEngine())
        return made[-1]

    engines = [join(load), join(load)]
    engines[which].unload()
    assert made[0].calls == ["unload"]
    assert [engine.status().state for engine in engines] == ["unloaded"] * 2
    engines[which].load()
    assert made[0].calls == ["unload", "load"]
    assert [engine.status().state for engine in engines] == ["ready"] * 2


@pytest.mark.parametrize("is_loaded", [True, False], ids=["in memory", "given back"])
def test_who_takes_over_loads_only_what_was_in_memory(processes, is_loaded):
    host = processes()
    assert host.joined()["host"]
    other = processes()
    assert not other.joined()["host"]
    if not is_loaded:
        host.ask("unload")
    assert other.ask("who")["state"] == ("ready" if is_loaded else "unloaded")
    host.kill()
    until = time.monotonic() + 10
    while not (answer := other.ask("who"))["host"] and time.monotonic() < until:
        time.sleep(0.02)
    assert answer["host"]
    time.sleep(0.2)
    assert other.ask("calls")["calls"] == (["load"] if is_loaded else [])


def test_the_host_leaves_and_another_takes_over(join):
    made = []

    def load():
        # never two at once
        assert all(each.is_closed for each in made)
        made.append(FakeEngine())
        return made[-1]

    first, second, third = join(load), join(load), join(load)
    first.close()
    assert made[0].is_closed
    assert not second.fill(problem())[0].is_cancelled or not second.fill(problem())[0].is_cancelled
    assert not third.fill(problem())[0].is_cancelled or not third.fill(problem())[0].is_cancelled
    assert [second.is_host, third.is_host].count(True) == 1
    assert len(made) == 2
    with pytest.raises(EngineError, match="closed"):
        first.fill(problem())


def test_a_model_that_cannot_be_loaded_is_told(join):
    def load():
        raise EngineError("There is no model. Name one.")

    with pytest.raises(EngineError, match="no model"):
        join(load)
    # the lock was given back
    assert join().is_host


def test_without_a_socket_each_has_its_own_model(join, tmp_path, monkeypatch):
    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shared, "EngineHost", no_room)
    engines = join(), join()
    assert all(engine.is_host for engine in engines)
    for engine in engines:
        assert engine.fill(problem())[0].is_finished
        assert engine.status().state == "ready"
    engines[0].close()
    # the lock is nobody's
    monkeypatch.undo()
    third = join()
    assert third.is_host
    assert list(tmp_path.glob("*.sock"))


@pytest.mark.parametrize("call", ["os.open", "fcntl.flock"])
def test_without_a_lock_each_has_its_own_model(join, monkeypatch, call):
    def no_room(path, *_):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(call, no_room)
        engines = join(), join()
    assert all(engine.is_host for engine in engines)
    for engine in engines:
        assert engine.fill(problem())[0].is_finished
    assert join().is_host


def test_a_folder_that_was_cleaned_splits_nobody_off(join, tmp_path):
    first = join()
    (lock,) = tmp_path.glob("*.lock")
    lock.unlink()
    second = join()
    assert first.is_host
    assert second.is_host
    first.close()
    # it has left its own place, not that of the other
    third = join()
    assert not third.is_host
    assert third.fill(problem())[0].is_finished


def test_a_host_keeps_its_files_from_being_cleaned_away(join, tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "FRESH_S", 0.0)
    monkeypatch.setattr(shared, "WATCH_S", 0.01)
    join()
    files = [*tmp_path.glob("*.lock"), *tmp_path.glob("*.sock")]
    assert len(files) == 2
    for file in files:
        os.utime(file, (1, 1))
    until = time.monotonic() + 10
    while any(file.stat().st_mtime == 1 for file in files) and time.monotonic() < until:
        time.sleep(0.01)
    assert all(file.stat().st_mtime > 1 for file in files)


def test_eight_processes_one_model(processes, tmp_path):
    made = [processes(load_s=0.2) for _ in range(8)]
    joined = [each.joined() for each in made]
    assert sum(each["host"] for each in joined) == 1
    (host_pid,) = loads(tmp_path)
    for each in made:
        each.say("fill 1")
    assert {each.hear()["by"] for each in made} == {host_pid}


def test_kill_9_of_the_host_under_load(processes, tmp_path):
    made = [processes(load_s=0.2) for _ in range(4)]
    joined = [each.joined() for each in made]
    (victim,) = [each for each, said in zip(made, joined, strict=True) if said["host"]]
    survivors = [each for each in made if each is not victim]
    for each in survivors:
        each.say("fill 2")
    time.sleep(0.05)
    begun = time.monotonic()
    victim.kill()
    # what was under way ends at once, as cancelled or, if it was never begun, by the next host
    answers = [each.hear() for each in survivors]
    assert all("error" not in answer for answer in answers)
    assert any(answer["cancelled"] for answer in answers)
    for each in survivors:
        each.say("fill 1")
    answers = [each.hear() for each in survivors]
    assert all(not answer["cancelled"] for answer in answers)
    assert time.monotonic() - begun < 5
    # one of them loaded the model, once; the others attached to it
    assert len(loads(tmp_path)) == 2
    assert {answer["by"] for answer in answers} == {loads(tmp_path)[1]}
    assert loads(tmp_path)[1] in {each.process.pid for each in survivors}


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(shared, "PING_S", 0.1)
    monkeypatch.setattr(shared, "SILENCE_S", 0.3)


def finished(engine, within_s=10.0):
    """The first results of this engine that are finished."""
    until = time.monotonic() + within_s
    while not (results := engine.fill(problem()))[0].is_finished and time.monotonic() < until:
        time.sleep(0.02)
    return results


def test_a_stopped_host_is_not_waited_for_and_comes_back(processes, join, tmp_path, impatient):
    stopped = processes()
    pid = stopped.joined()["joined"]
    window = join()
    assert window.fill(problem())[0].steps == pid
    stopped.stop()
    begun = time.monotonic()
    results = window.fill(problem())
    assert [(result.is_finished, result.is_cancelled) for result in results] == [(False, False)] * 2
    assert time.monotonic() - begun < 2
    # from now on nothing waits, however much is asked
    begun = time.monotonic()
    for _ in range(20):
        assert not window.fill(CanvasProblem((1,) * 1_000, (Canvas.free(4),)))[0].is_finished
    assert window.prefill((1, 2)).num_prefilled == 0
    window.load()
    window.unload()
    status = window.status()
    assert time.monotonic() - begun < 1
    assert (status.state, status.model, status.detail) == ("failed", "fake", shared.SILENT)
    # a window that is opened now is no worse off, and loads no second model
    another = join()
    another.load()
    assert (another.status().state, another.status().detail) == ("failed", shared.SILENT)
    assert not another.fill(problem())[0].is_finished
    stopped.process.send_signal(signal.SIGCONT)
    for engine in (window, another):
        assert [result.steps for result in finished(engine)] == [pid, pid]
        assert engine.status().state == "ready"
        assert engine.status().detail == f"hosted by process {pid}"
        assert not engine.is_host
    assert loads(tmp_path) == [pid]


@pytest.mark.parametrize("flag", [getattr(socket, "MSG_DONTWAIT", 0), 0], ids=["flagged", "as macOS sends"])
def test_a_host_that_stops_reading_blocks_nobody(processes, join, impatient, monkeypatch, flag):
    monkeypatch.setattr(shared, "SILENCE_S", 3.0)
    monkeypatch.setattr(socket, "MSG_DONTWAIT", flag)
    stopped = processes()
    pid = stopped.joined()["joined"]
    window = join()
    stopped.stop()
    # more than a socket holds
    large = CanvasProblem((1, *[70_000] * 100_000), (Canvas.free(4),))
    for _ in range(3):
        begun = time.monotonic()
        assert window.fill(large, lambda begun=begun: time.monotonic() - begun > 0.1)[0].is_cancelled
        assert time.monotonic() - begun < 2
    assert not window.fill(large)[0].is_finished
    stopped.process.send_signal(signal.SIGCONT)
    # what was sent in part is sent to its end
    assert finished(window)[0].steps == pid
    assert window.fill(large)[0].steps == pid


def test_a_stopped_host_that_dies_is_followed(processes, join, impatient):
    stopped = processes()
    stopped.joined()
    window = join()
    stopped.stop()
    assert not window.fill(problem())[0].is_finished
    stopped.kill()
    assert finished(window)[0].steps == os.getpid()
    assert window.is_host


def test_a_busy_host_is_not_silent(join, impatient):
    class Slow(FakeEngine):
        def load(self):
            time.sleep(1.0)
            super().load()

    host_engine, window = join(Slow), join(Slow)
    window.load()
    assert window.status().state == "ready"
    assert host_engine.is_host


def test_who_attaches_while_the_host_leaves_is_hung_up_on(tmp_path, monkeypatch):
    arrived, may_go_on = threading.Event(), threading.Event()

    def slow_check(connection):
        arrived.set()
        return may_go_on.wait(10)

    monkeypatch.setattr(host, "is_same_user", slow_check)
    leaving = host.EngineHost(FakeEngine(), tmp_path / "s", host.Turnstile())
    with socket.socket(socket.AF_UNIX) as late:
        # sooner than a client that says no hello is hung up on
        late.settimeout(3)
        late.connect(str(tmp_path / "s"))
        assert arrived.wait(10)
        leaving.close()
        may_go_on.set()
        assert late.recv(100) == b""
    assert leaving.num_clients == 0


def test_a_socket_that_cannot_be_opened_is_closed(tmp_path, recwarn):
    with pytest.raises(OSError, match="too long"):
        host.EngineHost(FakeEngine(), tmp_path / ("x" * 200), host.Turnstile())
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


def test_whoever_leaves_the_queue_by_an_exception_holds_nobody_up():
    turnstile, may_go = host.Turnstile(), threading.Event()

    def interrupted():
        raise KeyboardInterrupt

    def hold():
        with turnstile.turn():
            has_turn.set()
            may_go.wait(10)

    has_turn, holder = threading.Event(), threading.Thread(target=hold)
    holder.start()
    assert has_turn.wait(10)
    with pytest.raises(KeyboardInterrupt), turnstile.turn(interrupted):
        pass
    may_go.set()
    holder.join()
    until = time.monotonic() + 1
    with turnstile.turn(lambda: time.monotonic() > until) as is_next:
        assert is_next


@pytest.mark.parametrize(
    ("data", "user"),
    [
        (struct.pack("=IIh2x16I", 0, 501, 3, 20, 12, 61, *[0] * 13), 501),
        (struct.pack("=IIh2x16I", 1, 501, 0, *[0] * 16), None),
        (b"", None),
    ],
    ids=["as macOS has it", "another version", "nothing"],
)
def test_who_is_at_the_other_end_on_macos(data, user):
    assert host.user_of_xucred(data) == user


def test_the_socket_is_private(join, tmp_path):
    join()
    (path,) = tmp_path.glob("*.sock")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_host_without_a_free_descriptor_lets_others_in_later(join, monkeypatch):
    accept, refusals = socket.socket.accept, [OSError(errno.EMFILE, "Too many open files")] * 2

    def accept_later(self):
        if refusals:
            raise refusals.pop()
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", accept_later)
    first = join()
    second = join()
    assert first.is_host
    assert not second.is_host
    assert not refusals
    assert not second.fill(problem())[0].is_cancelled


def test_strangers_are_turned_away(join, tmp_path, monkeypatch):
    join()
    (path,) = tmp_path.glob("*.sock")
    monkeypatch.setattr(host, "is_same_user", lambda connection: False)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(path))
        assert stranger.recv(100) == b""


@pytest.mark.parametrize(
    "data",
    [frames.pack({"protocol": 99}), b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n"],
    ids=["another version", "a huge frame", "not our protocol"],
)
def test_what_is_not_our_protocol_is_hung_up_on(join, tmp_path, data):
    engine = join()
    (path,) = tmp_path.glob("*.sock")
    with socket.socket(socket.AF_UNIX) as odd, odd.makefile("rb") as stream:
        odd.connect(str(path))
        odd.sendall(data)
        odd.settimeout(10)
        try:
            answer = frames.read_frame(stream.read)
        except ConnectionResetError:
            answer = None
        assert answer is None or "error" in answer
    assert engine.fill(problem())[0].is_finished


def test_a_folder_that_others_can_enter_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert private_folder() == tmp_path / "lacuna"
    assert stat.S_IMODE((tmp_path / "lacuna").stat().st_mode) == 0o700
    (tmp_path / "lacuna").chmod(0o755)
    with pytest.raises(EngineError, match="not private"):
        private_folder()


def test_status_while_closed(join):
    engine = join()
    engine.close()
    assert engine.status() == EngineStatus("closed")
