"""The engine thread alone: who waits for whom, what is given up, and how it comes back."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from lacuna_ls.engine.errors import DeviceError, ModelNotFoundError
from lacuna_ls.infill.request import InfillerStatus
from lacuna_ls.lsp.cancel import CancelToken
from lacuna_ls.lsp.scheduler import Ending, EngineThread, Job, Scheduler


class Nothing:
    """An infiller that is only there."""

    def __init__(self) -> None:
        self.is_closed = False
        self.state = "ready"
        self.error = None
        self.orders = []

    def status(self):
        return InfillerStatus(self.state, "nothing")

    def load(self):
        self.orders.append("load")
        if self.error is not None:
            raise self.error
        self.state = "ready"

    def unload(self):
        self.orders.append("unload")
        self.state = "unloaded"

    def close(self):
        self.is_closed = True


class Thread:
    """An engine thread with everything it reported."""

    def __init__(self, load=Nothing, **more):
        self.states, self.crashes, self.loads = [], [], 0

        def count():
            self.loads += 1
            return load()

        self.engine = EngineThread(count, self.states.append, self.crashes.append, **more)

    def wait(self, state, times=1, timeout_s=5.0):
        """Until state is the current one and was entered so many times."""
        until = time.monotonic() + timeout_s
        while sum(each.state == state for each in self.states) < times or self.states[-1].state != state:
            assert time.monotonic() < until, f"never {state}: {self.states}"
            time.sleep(0.005)


@pytest.fixture
def made():
    threads = []

    def make(load=Nothing, **more):
        thread = Thread(load, **more)
        threads.append(thread)
        return thread

    yield make
    for thread in threads:
        assert thread.engine.stop(5)


def test_foreground_interrupts_background(made):
    thread = made()
    thread.engine.start()
    thread.wait("ready")
    started, seen = threading.Event(), []

    def background(infiller, cancelled):
        started.set()
        while not cancelled():
            time.sleep(0.001)
        seen.append("background stopped")

    slow = Job("a", background, CancelToken(), True)
    thread.engine.submit(slow)
    assert started.wait(5)
    quick = Job("b", lambda infiller, cancelled: seen.append("foreground") or 1, CancelToken(), False)
    thread.engine.submit(quick)
    assert quick.future.result(5) == 1
    assert slow.future.result(5) is Ending.SUPERSEDED
    assert seen == ["background stopped", "foreground"]
    assert len(thread.engine.cancel_lags_ms) == 1


def test_background_work_can_be_given_up_and_makes_way_for_newer(made):
    thread = made()
    thread.engine.start()
    thread.wait("ready")
    seen = []

    def endless(name, started):
        def work(infiller, cancelled):
            started.set()
            while not cancelled():
                time.sleep(0.001)
            seen.append(name)

        return work

    first, second = threading.Event(), threading.Event()
    jobs = [
        Job("a", endless("first", first), CancelToken(), True),
        Job("b", lambda infiller, cancelled: seen.append("never"), CancelToken(), True),
        Job("a", endless("second", second), CancelToken(), True),
    ]
    thread.engine.submit(jobs[0])
    assert first.wait(5)
    thread.engine.submit(jobs[1])
    thread.engine.drop_background("b")
    # of the same key: the older one ends by itself
    thread.engine.submit(jobs[2])
    assert jobs[0].future.result(5) is Ending.SUPERSEDED
    assert jobs[1].future.result(5) is Ending.SUPERSEDED
    assert second.wait(5)
    thread.engine.drop_background("a")
    assert jobs[2].future.result(5) is Ending.SUPERSEDED
    assert seen == ["first", "second"]
    # nothing there is nothing to give up
    thread.engine.drop_background("a")


def test_background_work_is_one_per_key_the_latest(made):
    thread = made()
    gate = threading.Event()
    thread.engine.start()
    thread.wait("ready")
    thread.engine.submit(Job("gate", lambda infiller, cancelled: gate.wait(5), CancelToken(), False))
    done = []
    jobs = [Job("a", lambda i, c, n=n: done.append(n), CancelToken(), True) for n in range(5)]
    for job in jobs:
        thread.engine.submit(job)
    gate.set()
    assert jobs[-1].future.result(5) is None
    assert [job.future.result(5) for job in jobs[:-1]] == [Ending.SUPERSEDED] * 4
    assert done == [4]


def run(thread, is_background=False, work=lambda infiller, cancelled: 1):
    """What becomes of a job."""
    job = Job("a", work, CancelToken(), is_background)
    thread.engine.submit(job)
    return job.future.result(5)


def test_what_unloaded_itself_is_told_and_loaded_by_the_next_request(made):
    infiller = Nothing()
    thread = made(lambda: infiller, look_s=0.05)
    thread.engine.start()
    thread.wait("ready")
    infiller.state = "unloaded"
    thread.wait("unloaded")
    # work in the background does not bring it back; a request does, and waits for it
    assert run(thread, is_background=True) is Ending.UNAVAILABLE
    assert infiller.orders == []
    assert run(thread) == 1
    thread.wait("ready", 2)
    assert infiller.orders == ["load"]
    assert [each.state for each in thread.states] == ["loading", "ready", "unloaded", "loading", "ready"]
    # the infiller stayed, and what it knows of the workspace
    assert [each.is_new for each in thread.states] == [False, True, False, False, False]
    assert thread.loads == 1


def test_unloaded_by_hand(made):
    infiller = Nothing()
    thread = made(lambda: infiller)
    thread.engine.start()
    thread.wait("ready")
    started = threading.Event()

    def slow(infiller, cancelled):
        started.set()
        while not cancelled():
            time.sleep(0.001)

    job = Job("a", slow, CancelToken(), False)
    thread.engine.submit(job)
    assert started.wait(5)
    thread.engine.unload()
    # what is under way is given up
    assert job.future.result(5) is Ending.SUPERSEDED
    thread.wait("unloaded")
    thread.engine.load()
    thread.wait("ready", 2)
    assert infiller.orders == ["unload", "load"]


def test_an_engine_that_says_what_the_matter_is_is_not_restarted(made):
    infiller = Nothing()
    thread = made(lambda: infiller)
    thread.engine.start()
    thread.wait("ready")

    def fail(infiller, cancelled):
        raise DeviceError("The device ran out of memory.")

    assert run(thread, work=fail) is Ending.UNAVAILABLE
    thread.wait("failed")
    assert thread.states[-1].detail == "The device ran out of memory."
    # it works again by itself
    assert run(thread) == 1
    thread.wait("ready", 2)
    assert (thread.loads, thread.crashes, infiller.orders) == (1, [], [])


def test_a_model_that_cannot_be_loaded_again(made):
    infiller = Nothing()
    thread = made(lambda: infiller, look_s=0.05)
    thread.engine.start()
    thread.wait("ready")
    infiller.state, infiller.error = "unloaded", DeviceError("Close what else uses the GPU.")
    thread.wait("unloaded")
    assert run(thread) is Ending.UNAVAILABLE
    thread.wait("failed")
    infiller.error = None
    thread.engine.load()
    thread.wait("ready", 2)
    assert thread.loads == 1


def test_reload_closes_the_old_one(made):
    infillers = []

    def load():
        infillers.append(Nothing())
        return infillers[-1]

    thread = made(load)
    thread.engine.start()
    thread.wait("ready")
    thread.engine.reload()
    until = time.monotonic() + 5
    while len(infillers) < 2 and time.monotonic() < until:
        time.sleep(0.005)
    assert [each.is_closed for each in infillers] == [True, False]


def test_crashes_back_off_and_end(made):
    thread = made(backoff_s=0.01)
    thread.engine.start()
    thread.wait("ready")

    def crash(infiller, cancelled):
        raise MemoryError("no more")

    endings = []
    for number in range(6):
        thread.wait("ready", number + 1)
        job = Job("a", crash, CancelToken(), False)
        thread.engine.submit(job)
        endings.append(job.future.result(5))
    thread.wait("failed")
    assert endings == [Ending.UNAVAILABLE] * 6
    assert len(thread.crashes) == 1
    # told to try again
    thread.engine.load()
    thread.wait("ready")


def test_a_success_ends_the_count_of_crashes(made):
    thread = made(backoff_s=0.01)
    thread.engine.start()
    for number in range(8):
        thread.wait("ready", number + 1)
        good = Job("a", lambda infiller, cancelled: 1, CancelToken(), False)
        thread.engine.submit(good)
        assert good.future.result(5) == 1
        bad = Job("a", lambda infiller, cancelled: 1 / 0, CancelToken(), False)
        thread.engine.submit(bad)
        assert bad.future.result(5) is Ending.UNAVAILABLE
    thread.wait("ready", 9)


def test_a_world_error_while_loading_is_not_retried_by_itself(made):
    def load():
        raise ModelNotFoundError("Name a model.")

    thread = made(load, backoff_s=0.001, retry_s=0.01)
    thread.engine.start()
    thread.wait("failed")
    time.sleep(0.05)
    # nor for what may never be asked for
    assert run(thread, is_background=True) is Ending.UNAVAILABLE
    assert thread.loads == 1
    assert thread.states[-1].detail == "Name a model."
    assert not thread.crashes


def test_a_request_tries_a_model_again_that_could_not_be_loaded(made):
    errors = [DeviceError("Close what else uses the GPU."), DeviceError("Close it.")]

    def load():
        if errors:
            raise errors.pop(0)
        return Nothing()

    thread = made(load, retry_s=0.2)
    thread.engine.start()
    thread.wait("failed")
    # not for every key
    assert run(thread) is Ending.UNAVAILABLE
    assert thread.loads == 1
    for number, ending in ((2, Ending.UNAVAILABLE), (3, 1)):
        time.sleep(0.25)
        assert run(thread) == ending
        assert thread.loads == number
    thread.wait("ready")
    assert [each.detail for each in thread.states if each.state == "failed"] == [
        "Close what else uses the GPU.", "Close it."
    ]  # fmt: skip


def test_a_model_that_is_told_to_be_loaded_again_is_not_waited_for(made):
    errors = [DeviceError("Close what else uses the GPU.")]

    def load():
        if errors:
            raise errors.pop(0)
        return Nothing()

    thread = made(load, retry_s=3600)
    thread.engine.start()
    thread.wait("failed")
    thread.engine.load()
    thread.wait("ready")


class Lazy(Nothing):
    """Made without its model."""

    def __init__(self):
        super().__init__()
        self.state = "unloaded"


def test_a_model_that_comes_with_the_first_request(made):
    infiller = Lazy()
    thread = made(lambda: infiller)
    thread.engine.start()
    thread.wait("unloaded")
    # the infiller is there, and its model is not: an editor that is opened asks for nothing
    assert thread.states[-1].is_new
    assert run(thread, is_background=True) is Ending.UNAVAILABLE
    assert infiller.orders == []
    assert run(thread) == 1
    thread.wait("ready")
    assert infiller.orders == ["load"]
    assert [each.state for each in thread.states] == ["loading", "unloaded", "loading", "ready"]


def test_other_options_do_not_load_what_nobody_asked_for_and_who_resumes_asks(made):
    infillers = []

    def load():
        infillers.append(Lazy())
        return infillers[-1]

    thread = made(load)
    thread.engine.start()
    thread.wait("unloaded")
    thread.engine.reload()
    thread.wait("unloaded", 2)
    assert [each.orders for each in infillers] == [[], []]
    thread.engine.load()
    thread.wait("ready")
    assert [each.orders for each in infillers] == [[], ["load"]]


def test_a_load_that_is_told_before_there_is_an_infiller(made):
    infiller = Lazy()
    errors = [DeviceError("Close what else uses the GPU.")]

    def load():
        if errors:
            raise errors.pop(0)
        return infiller

    thread = made(load)
    thread.engine.start()
    thread.wait("failed")
    thread.engine.load()
    thread.wait("ready")
    assert infiller.orders == ["load"]


def test_the_state_says_how_much_is_loaded(made):
    class Reporting(Lazy):
        def load(self):
            for done in (5, 5, 10):
                thread.engine.told_progress(done, 10, "tensor")
            super().load()

    thread = made(Reporting)
    thread.engine.start()
    thread.wait("unloaded")
    assert run(thread) == 1
    thread.wait("ready")
    found = [(each.detail, each.percent) for each in thread.states if each.percent is not None]
    assert found == [("loading the model: 50 %", 50), ("loading the model: 100 %", 100)]
    # a load that another window asked for is not this one's to show
    before = len(thread.states)
    thread.engine.told_progress(1, 10, "tensor")
    assert len(thread.states) == before


@pytest.mark.parametrize("end", ["ready", "unloaded", "failed"])
def test_a_model_that_another_window_loads_is_looked_at_until_that_is_over(made, end):
    infiller = Nothing()
    infiller.state = "loading"
    thread = made(lambda: infiller, look_s=0.05)
    thread.engine.start()
    thread.wait("loading", 2)
    infiller.state = end
    thread.wait(end)
    assert infiller.orders == []


def test_an_infiller_that_fails_to_close_stops_nothing(made):
    class Sticky(Nothing):
        def close(self):
            raise OSError("busy")

    thread = made(Sticky)
    thread.engine.start()
    thread.wait("ready")
    thread.engine.reload()
    until = time.monotonic() + 5
    while thread.loads < 2 and time.monotonic() < until:
        time.sleep(0.005)
    assert thread.loads == 2


def test_endings_of_run(made):
    thread = made()
    thread.engine.start()
    thread.wait("ready")

    def deaf(infiller, cancelled):
        time.sleep(0.2)
        return "done"

    async def main():
        scheduler = Scheduler(thread.engine)
        token = scheduler.begin("a")
        late = await scheduler.run("a", token, deaf, deadline_s=0.02)
        # the answer does not wait for work that polls nothing
        token = scheduler.begin("a")
        running = asyncio.ensure_future(scheduler.run("a", token, deaf))
        await asyncio.sleep(0.01)
        begun = time.monotonic()
        scheduler.begin("a")
        superseded = await running
        assert time.monotonic() - begun < 0.15
        value = await scheduler.run("b", scheduler.begin("b"), deaf)
        return late, superseded, value

    assert asyncio.run(main()) == (Ending.LATE, Ending.SUPERSEDED, "done")


def test_stopping_answers_what_is_queued():
    thread = Thread()
    thread.engine.start()
    thread.wait("ready")
    gate = threading.Event()
    jobs = [Job("a", lambda infiller, cancelled: gate.wait(0.2), CancelToken(), False) for _ in range(3)]
    for job in jobs:
        thread.engine.submit(job)
    assert thread.engine.stop(5)
    assert all(job.future.done() for job in jobs)
    late = Job("a", lambda infiller, cancelled: 1, CancelToken(), False)
    thread.engine.submit(late)
    assert late.future.result(1) is Ending.UNAVAILABLE


def test_a_cancelled_task_ends_the_work_that_it_waits_for(made):
    thread = made()
    thread.engine.start()
    thread.wait("ready")
    started, ended = threading.Event(), threading.Event()

    def work(infiller, cancelled):
        started.set()
        while not cancelled():
            time.sleep(0.001)
        ended.set()

    async def main():
        scheduler = Scheduler(thread.engine)
        task = asyncio.ensure_future(scheduler.run("a", scheduler.begin("a"), work))
        await asyncio.to_thread(started.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(ended.wait, 5)

    asyncio.run(main())


class Blind(Nothing):
    """Cannot say how it is, as long as it is told so."""

    is_blind = True

    def status(self):
        if self.is_blind:
            raise RuntimeError("the socket is gone")
        return super().status()


def test_an_infiller_that_cannot_say_how_it_is_is_a_crash(made):
    thread = made(Blind, backoff_s=0.001)
    thread.engine.start()
    thread.wait("failed")
    assert "the socket is gone" in thread.states[-1].detail
    assert run(thread) is Ending.UNAVAILABLE
    # the thread lives
    Blind.is_blind = False
    try:
        thread.engine.load()
        thread.wait("ready")
        assert run(thread) == 1
    finally:
        Blind.is_blind = True


@pytest.mark.parametrize("error", [RuntimeError("gone"), DeviceError("The device is lost.")], ids=["crash", "failure"])
@pytest.mark.parametrize("when", ["resting", "loading"])
def test_one_that_stops_saying_how_it_is_is_made_or_asked_again(made, error, when):
    class Fading(Nothing):
        fails = False

        def status(self):
            if self.fails:
                self.fails = False
                raise error
            return super().status()

    infiller = Fading()
    thread = made(lambda: infiller, backoff_s=0.01, look_s=0.05)
    thread.engine.start()
    thread.wait("ready")
    infiller.fails = True
    if when == "loading":
        thread.engine.load()
    thread.wait("ready", 2)
    assert run(thread) == 1


def test_who_asks_sees_what_the_engine_has_become(made):
    infiller = Nothing()
    thread = made(lambda: infiller, look_s=3600.0)
    assert thread.engine.look().result(5) is None
    thread.engine.start()
    thread.wait("ready")
    infiller.state = "unloaded"
    thread.engine.look().result(5)
    assert thread.states[-1].state == "unloaded"


def test_nobody_waits_for_a_look_of_a_thread_that_has_ended(made):
    thread = made()
    thread.engine.start()
    thread.wait("ready")
    looks = [thread.engine.look() for _ in range(3)]
    assert thread.engine.stop(5)
    assert [look.result(5) for look in [*looks, thread.engine.look()]] == [None] * 4


def test_an_infiller_whose_server_does_not_answer_yet_has_failed_and_goes_on_working(made):
    infiller = Nothing()
    infiller.state = "failed"
    thread = made(lambda: infiller)
    thread.engine.start()
    thread.wait("failed")
    infiller.state = "ready"
    job = Job("a", lambda found, token: found is infiller, CancelToken(), False)
    thread.engine.submit(job)
    assert job.future.result(5) is True
    thread.wait("ready")
    assert thread.loads == 1
