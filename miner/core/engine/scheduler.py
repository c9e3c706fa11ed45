"""Grants slots, loads, evicts and stops engines, on one event loop; `pool.py` is the public interface.

Every change of state happens in a synchronous method that ends in `schedule`, which recomputes all decisions: there is
no lock and no stale decision. A waiting request is a future. Work that takes time (a load, the watch over a loaded
engine, a stop) is one task for each engine. All deadlines (time slices, idleness, the queue's timeout) is one timer.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from miner.core.counted import counted
from miner.core.engine.conflicts import fits
from miner.core.engine.errors import closed, not_started, overloaded, stopped
from miner.core.engine.events import EngineEvent, EngineEvents, EngineEventState
from miner.core.engine.eviction import surplus
from miner.core.engine.gang import GangScheduler
from miner.core.engine.headroom import HeadroomMeter, Measure
from miner.core.engine.late import too_late
from miner.core.engine.limits import PoolLimits
from miner.core.engine.member import Member, State
from miner.core.engine.sleepers import plan_beside_sleepers
from miner.core.engine.slot_queue import Lease, Waiter
from miner.core.engine.spec import AnySpec
from miner.core.engine.stopping import stop_engine
from miner.core.fair_queue import Client, waiter_to_drop
from miner.core.wire import Progress
from miner.errors import BackendOverloadedError, MinerError

_REPORT_LOAD_EVERY = 0.5
"""Seconds between two reports of a load's progress."""


class Scheduler:
    """The engines of a pool. Created and used inside one running loop."""

    def __init__(self, limits: PoolLimits, events: EngineEvents | None = None, measure: Measure | None = None) -> None:
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self._events = EngineEvents() if events is None else events
        self.meter = HeadroomMeter(measure, self.loop, self.schedule) if measure is not None else None
        """Measures the memory before a load; None: the limits say what there is."""
        self.members: dict[AnySpec, Member] = {}
        self.unsettled = False
        """Whether engines that run may exceed the limits: these, or what an engine takes, have changed."""
        self._draining: set[Member] = set()
        """Victims that get no new requests while those in flight finish; chosen again in each pass."""
        self._evicting: set[Member] = set()
        """Those whose eviction was told to whoever watches."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._gang = GangScheduler(self.loop)
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    # Requests arrive and leave.

    def enqueue(
        self, member: Member, client: Client, keep_alive: float | None, on_progress: Callable[[Progress], None] | None
    ) -> Waiter:
        """Queue a request; BackendOverloadedError if too many wait, EngineStartError after too many failures."""
        if self._closed:
            raise closed()
        if (refusal := member.cooldown_error()) is not None:
            raise refusal
        if self._waiting() >= self.limits.max_queue and member.active + len(member.queue) >= member.parallel:
            self._drop_for(client, member)
        waiter = Waiter(client, self.loop.create_future(), self.loop.time(), keep_alive, on_progress)
        member.queue.push(waiter)
        self.schedule()
        return waiter

    def leave(self, member: Member, waiter: Waiter) -> None:
        """Release the slot of a request, or its place in the queue, when it has ended."""
        future = waiter.future
        if not future.done() or future.cancelled():
            member.queue.discard(waiter)
        elif future.exception() is None:
            lease, now = future.result(), self.loop.time()
            member.times.record(now - lease.granted_at)
            if lease.run_number == member.run_number:
                member.active -= 1
                member.queue.release(waiter.client)
                member.last_used = now
                member.requested_keep_alive = waiter.keep_alive
        self.schedule()

    def _drop_for(self, client: Client, member: Member) -> None:
        """Drop a queued request for this one if the queues are full, or raise BackendOverloadedError."""
        full = [each for each in self.members.values() if each.backlog]
        dropped = waiter_to_drop(client, (each.queue.waiters for each in full))
        for each in full:
            if dropped is not None and dropped in each.queue.waiters:
                each.queue.refuse(dropped, self._queue_full(each, "too many requests wait, most of them yours"))
                return
        waiting = self._waiting()
        why = f"{counted(waiting, 'request')} {'waits' if waiting == 1 else 'wait'} already, the most that may"
        raise self._queue_full(member, why)

    def _waiting(self) -> int:
        return sum(member.backlog for member in self.members.values())

    def _queue_full(self, member: Member, why: str) -> BackendOverloadedError:
        seconds = member.times.retry_after(self._waiting(), member.parallel, most=self.limits.queue_timeout)
        return overloaded(member, why, seconds, "MINER_MAX_QUEUE")

    # Decisions, taken again at each change.

    def schedule(self) -> None:
        """Apply all rules as of now."""
        if self._closed:
            return
        now = self.loop.time()
        for member in self.members.values():
            member.look_for_waiters(now)
        for member in [m for m in self.members.values() if m.retired and not m.queue]:
            if member.asleep or member.state is State.LOADING:
                self.stop(member, reason=_why_expired(member))
            elif member.state is State.UNLOADED:
                del self.members[member.spec]
        wake_at = [self._schedule_loads(now)]
        for member in self.members.values():
            if member.state is State.READY:
                self._serve(member, now)
            wake_at.append(self._refuse_late(member, now))
            if member.state is State.LOADING and member.queue.has_listeners:
                wake_at.append(self._report_load(member, now))
            if member.expires_at is not None:
                wake_at.append(member.expires_at)
            member.queue.report_positions(member.parallel)
        self._gang.update((m.engine for m in self.members.values() if m.computes), self.limits.cores)
        self._set_timer(min(wake_at))

    def _schedule_loads(self, now: float) -> float:
        """Load waiting models that fit, and evict for those that do not; return when to decide again."""
        draining, self._draining = self._draining, set()
        meter, limits, most = self.meter, self.limits, self.limits
        wanting = [member for member in self.members.values() if member.state is State.UNLOADED and member.queue]
        if not (wanting or self.unsettled or self._evicting):
            return math.inf
        if meter is not None:
            limits, most = meter.limits_now(limits), meter.limits_at_most(limits)
        for member in self.members.values() if wanting else ():
            member.measure(most.memory_budget)
        beyond = surplus(self.members.values(), most)
        self.unsettled = bool(beyond)
        self._evict(beyond, "the limits have changed")
        wake_at = math.inf
        first: Member | None = None
        """The next model to load: others may load only if they fit beside it, too."""
        victims: Sequence[Member] = ()
        above: tuple[Member, Sequence[Member]] | None = None
        """The model of the highest priority that waits for memory, and its victims."""
        for wanted in sorted(wanting, key=lambda member: (-member.priority, member.waiting_since)):
            if first is None and above is not None and wanted.priority < above[0].priority:
                first, victims = above
            if (refused := wanted.cooldown_error()) is not None:  # nothing is evicted for it
                self.fail(wanted, refused)
                continue
            plan, sleeper = plan_beside_sleepers(wanted, self.members.values(), limits, most)
            wanted.waits_for = tuple(plan.behind)
            acts = sleeper is not None or plan.load or plan.refusal is not None or plan.at <= now
            if acts and meter is not None and not meter.is_fresh(now, self.members.values()):
                self._draining |= draining & set(plan.victims)  # an eviction under way goes on
                break
            if sleeper is not None:
                self._evict([sleeper], f"{wanted.spec.alias} needs its memory")
            elif plan.refusal is not None:
                self._emit(wanted, "refused", plan.refusal.message)
                self.fail(wanted, plan.refusal)
            elif plan.load and (first is None or fits(wanted, self._after(first, victims), limits)):
                self._load(wanted, now)
            elif first is not None or plan.behind:
                continue
            elif plan.at <= now or wanted.waiting_since + self.limits.fairness_wait <= now:
                first, victims = wanted, plan.victims
                if plan.at <= now:
                    self._evict(plan.victims, f"{wanted.spec.alias} needs its memory")
                else:
                    wake_at = min(wake_at, plan.at)
            else:
                above = above or (wanted, plan.victims)
                wake_at = min(wake_at, plan.at)
        self._evicting = {each for each in self._evicting if each in self._draining or each.state is State.STOPPING}
        if any(member.state is State.UNLOADED and member.queue for member in wanting):
            wake_at = min(wake_at, self._give_way(now))
        return wake_at

    def _give_way(self, now: float) -> float:
        """End loads that nobody has waited for in a time slice, as others wait; return when to decide again."""
        wake_at = math.inf
        for member in self.members.values():
            since = member.abandoned_at
            if member.state is State.LOADING and since is not None and not (member.queue or member.pinned):
                until = since + self.limits.fairness_wait
                if until <= now:
                    self.stop(member, reason="nobody waits for its load any more, and others wait to load")
                else:
                    wake_at = min(wake_at, until)
        return wake_at

    def _emit(
        self, member: Member, state: EngineEventState, reason: str | None = None, seconds: float | None = None
    ) -> None:
        memory = (member.engine.memory if state == "ready" else None) or member.need or None
        self._events.emit(EngineEvent(member.spec.alias, state, reason, seconds, memory))

    def _after(self, first: Member, victims: Sequence[Member]) -> list[Member]:
        """The engines that will be loaded once `first` is."""
        staying = [member for member in self.members.values() if member.state in (State.LOADING, State.READY)]
        return [first, *(member for member in staying if member not in victims)]

    def _evict(self, victims: Sequence[Member], reason: str) -> None:
        for victim in victims:
            if victim not in self._evicting:
                self._emit(victim, "evicting", reason)
                self._evicting.add(victim)
            if victim.active:
                self._draining.add(victim)
            else:
                self.stop(victim, returns=True)

    def _serve(self, member: Member, now: float) -> None:
        """Grant free slots; stop an engine that is idle for too long or to be unloaded."""
        # It may have exited just now: the requests that failed can be back here before the watch has run.
        running = member.engine.state == "ready"
        if running and member not in self._draining:
            while member.active < member.parallel and member.may_grant and (waiter := member.queue.next()):
                waited, loading = now - waiter.arrived, member.load_part(waiter.arrived)
                assert member.address is not None
                lease = Lease(member.address, waited - loading, loading, member.engine, now, member.run_number)
                member.active += 1
                member.queue.grant(waiter, lease)
        if member.expires_at is not None and member.expires_at <= now:
            self.stop(member, returns=not member.retired, reason=_why_expired(member))
        elif member.unloading is not None and not (member.active or member.may_grant):
            self.stop(member, returns=not member.retired)

    def _refuse_late(self, member: Member, now: float) -> float:
        """Refuse requests that have waited `queue_timeout`; return when the next one will have."""
        while (oldest := member.queue.oldest) is not None:
            deadline = oldest.arrived + self.limits.queue_timeout
            if deadline > now:
                return deadline
            member.queue.refuse(oldest, too_late(member, self.members.values(), self.limits, now))
        return math.inf

    def _report_load(self, member: Member, now: float) -> float:
        if now >= member.load_reported_at + _REPORT_LOAD_EVERY:
            member.load_reported_at = now
            done, total = member.engine.memory or 0, member.booked
            member.queue.report_load(min(done, total or done), total or done)
        return member.load_reported_at + _REPORT_LOAD_EVERY

    def fail(self, member: Member, error: MinerError, arrived_by: float = math.inf) -> None:
        """Refuse the requests that wait for an engine, of those that arrived by then; each gets a copy: a shared
        exception accumulates tracebacks.
        """
        for waiter in [each for each in member.queue.waiters if each.arrived <= arrived_by]:
            own = copy.copy(error)
            own.__cause__ = error.__cause__
            member.queue.refuse(waiter, own)

    # Tasks: one for each engine, which loads and watches, or stops.

    def _load(self, member: Member, now: float) -> None:
        member.begin_load(now, self.limits.idle_timeout)
        self._emit(member, "loading")
        self._start_task(member, self._load_and_watch(member))

    def stop(self, member: Member, *, returns: bool = False, reason: str | None = None) -> None:
        """Begin to stop an engine, whatever its state.

        Args:
            returns: it may be loaded again: it sleeps if it can, else it is given time to save what it needs then.
            reason: why, for events and log, where that was not said before.
        """
        member.state = State.STOPPING
        member.unloaded.clear()
        self._emit(member, "stopping", reason)
        member.end_slice(self.loop.time())
        if member.task is not None:
            member.task.cancel()
        self._start_task(member, stop_engine(member, self.limits, returns=returns))

    def _start_task(self, member: Member, work: Coroutine[Any, Any, None]) -> None:
        member.task = self.loop.create_task(work)
        member.task.add_done_callback(functools.partial(self._task_done, member))
        self._tasks.add(member.task)

    async def _load_and_watch(self, member: Member) -> None:
        try:
            async with asyncio.timeout(self.limits.start_timeout):
                member.address = await member.engine.ensure_ready()
            member.ready(self.loop.time())
            self._emit(member, "ready", seconds=member.load_seconds)
            member.measure(self.limits.memory_budget)
            self.unsettled = True
            self._serve(member, member.ready_at)  # before slices are checked: however short, one serves a request
            self.schedule()
            await member.engine.wait_for_exit(member.address)
            crash = member.engine.crash_error()  # None if it was reset meanwhile
            member.failure = crash.message if crash else None
        except asyncio.CancelledError:
            if member.state is not State.STOPPING:  # the loop ends without the pool being closed
                member.engine.kill()
            raise

    def _task_done(self, member: Member, task: asyncio.Task[None]) -> None:
        """Handle the end of an engine's task (stopped, exited, not started). All its errors end here."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if member.task is not task:
            return  # it was cancelled by `stop`, whose own task continues
        if member.unloading is not None:
            if member.engine.state == "sleeping":  # `unload` was called while it fell asleep
                self.stop(member)
                return
            # It was evicted, or crashed, before it had served them: nothing loads it again by itself.
            self.fail(member, stopped(member), member.unloading)
        if error is not None and not isinstance(error, MinerError):
            member.engine.kill()
            error = not_started(member, error, self.limits)
        if member.state is State.LOADING and error is not None:
            member.failure = error.message
            if not member.queue:
                self._events.load_failed_unheard(member.spec.alias, error)
            self.fail(member, error)
        if member in self._draining:  # a crash must not win it another slice
            member.end_slice(self.loop.time())
        if member.state is State.STOPPING:
            self._emit(member, "sleeping" if member.engine.state == "sleeping" else "stopped")
        else:
            self._emit(member, "failed", member.failure)
        member.exited()
        if not task.cancelled():
            self.schedule()

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            if self._timer.when() == when:
                return
            self._timer.cancel()
            self._timer = None
        if when < math.inf:
            self._timer = self.loop.call_at(when, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self.schedule()

    # Shutdown.

    async def aclose(self) -> None:
        """Refuse all requests that wait, stop all engines, leave no task and no timer."""
        self._close()
        for member in self.members.values():
            if member.state in (State.LOADING, State.READY) or member.asleep:
                self.stop(member)
        try:
            if self._tasks:
                longest = max((member.engine.stop_seconds for member in self.members.values()), default=0.0)
                await asyncio.wait(self._tasks, timeout=max(self.limits.stop_timeout, longest) + 5.0)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill all processes. Outside the loop nothing else can be done safely."""
        for member in self.members.values():
            member.engine.kill()
        try:
            inside = asyncio.get_running_loop() is self.loop
        except RuntimeError:
            inside = False
        if inside:
            self._close()
            for task in self._tasks:
                task.cancel()

    def _close(self) -> None:
        self._set_timer(math.inf)
        self._gang.close()
        self._closed = True
        if self.meter is not None:
            self.meter.cancel()
        for member in self.members.values():
            self.fail(member, closed())
            if member.preparing is not None:
                member.preparing.cancel()


def _why_expired(member: Member) -> str:
    """Why an idle engine is unloaded."""
    return "it was replaced" if member.retired else f"no request for {member.keep_alive or 0:g} s"
