"""Workers: the source that knows what all processes of the application know.

This process is asked directly, the others over their sockets. A job's own process tells
about it, and does what is to be done to it. A worker that does not answer costs a line,
and half a second once.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from aiohttp_jobs.share.asking import Answer, Trouble, ask, order
from aiohttp_jobs.share.member import Member
from aiohttp_jobs.share.names import SocketName, process_name
from aiohttp_jobs.share.others import Others, foreign
from aiohttp_jobs.share.patience import Patience

from . import data
from .access import Visitor
from .answering import MOST_QUERIES, Answering, packed_query, packed_visitor
from .overview import Voice, put_together
from .pieces import Heard, Said
from .query import Query
from .source import MOST_FOUND, NoAnswer, NoSuchJob, ThisProcess
from .words import ago

__all__ = ("Workers",)

# Seconds for which the others are still asked for what a page wants, which may be gone.
WANTED_FOR: Final = 3.0
# Seconds that another worker may take to look at all its jobs, when a form is sent.
LOOK: Final = 3.0
# For how many jobs to remember what their workers said about them.
MOST_SAID: Final = 50

_STRANGER: Final = (
    "Workers of another application are in the same directory, and are not shown: give "
    "each application a directory of its own"
)
_NO_PLACE: Final = (
    "The directory that the workers share is gone or refused, so this one is shown "
    "alone: the log says why"
)
# How a worker's trouble is worded here, if not in its own words.
_WORDS: Final = {Trouble.NOTHING: "does not show what this page shows"}


class Workers:
    """The source that knows what all processes of the application know.

    Args:
        share: the directory of the workers.
        name: the dashboard's name, the same in all of them.
        here: what this process knows.

    Raises:
        TypeError, ValueError, RuntimeError: as :class:`.share.member.Member`.
    """

    is_alone = False

    def __init__(
        self, share: str | os.PathLike[str], name: str, here: ThisProcess
    ) -> None:
        self._here = here
        handlers = Answering(here, lambda: self._member.number).handlers()
        self._member = Member(share, f"/dashboard{name}", handlers)
        self._others: Others | None = None
        self._patience = Patience()
        # What pages show just now, and until when the others are asked for it.
        self._wanted = OrderedDict[Query, float]()
        # What each worker has told so far.
        self._heard: dict[SocketName, Heard] = {}
        # What was last said about a job that is elsewhere, and when.
        self._said = OrderedDict[str, tuple[data.JobDetails, float]]()

    async def context(self, app: web.Application) -> AsyncIterator[None]:
        """Be open while the application runs: one of its clean-up contexts.

        They end after the jobs have, so the others still show a worker that drains.
        """
        try:
            await self._member.open()
            path = f"{self._member.path}/overview"
            self._others = Others(self._member, path, self._data, self._hear)
            yield
        finally:
            if self._others is not None:
                await self._others.close()
            await self._patience.close()
            await self._member.close()

    # -- what all know ------------------------------------------------------------------

    async def overview(self, query: Query) -> data.Overview:
        answers = await self._ask_for(query)
        number = self._member.number
        part, (look,) = self._here.voice(number, [query])
        voices, silent = [Voice(number, part, look)], list[data.Worker]()
        strangers = set[str]() if self._member.place is not None else {_NO_PLACE}
        told = {number}
        # Live ones first: a dead worker's number may already be another's, which answers.
        for answer in sorted(answers, key=lambda answer: answer.trouble is not None):
            if answer.trouble is Trouble.APPLICATION:
                strangers.add(_STRANGER)
            elif answer.name.number not in told:
                told.add(answer.name.number)
                voice = _voice(answer, query)
                if voice is not None:
                    voices.append(voice)
                else:
                    silent.append(_silent(answer))
        return put_together(voices, query, silent, sorted(strangers))

    async def _ask_for(self, query: Query) -> list[Answer]:
        """Ask the others for all that is wanted just now, once a second."""
        if self._others is None:
            return []
        is_new = query not in self._wanted
        self._wanted[query] = asyncio.get_running_loop().time() + WANTED_FOR
        self._wanted.move_to_end(query)
        answers = await self._others.ask()
        # That round may have begun before this was wanted.
        if is_new and any(_voice(answer, query) is None for answer in answers):
            answers = await self._others.ask(anew=True)
        return answers

    def _data(self) -> object:
        now = asyncio.get_running_loop().time()
        for query in [query for query, until in self._wanted.items() if until < now]:
            del self._wanted[query]
        for name in self._heard.keys() - set(self._names()):
            del self._heard[name]
        wanted = list(self._wanted)[-MOST_QUERIES:]
        return {
            "queries": {str(query): packed_query(query) for query in wanted},
            "known": {name.called: heard.known() for name, heard in self._heard.items()},
        }

    def _hear(self, name: SocketName, told: Any) -> Said:
        return self._heard.setdefault(name, Heard()).hear(told)

    async def find_pending(self, query: Query) -> data.Found:
        found = await self._here.find_pending(query)
        for row in found["rows"]:
            row["worker"] = self._member.number
        for number, told in await self._look("pending", query, found["silent"]):
            for row in told["rows"]:
                row["worker"] = number
            found["rows"] += told["rows"]
            found["looked_at"] += told["looked_at"]
            found["total"] += told["total"]
        found["rows"] = sorted(found["rows"], key=lambda row: row["spawned"] or 0.0)
        del found["rows"][MOST_FOUND:]
        return found

    async def matching(self, query: Query) -> data.Matches:
        matches = await self._here.matching(query)
        matches["processes"][0]["worker"] = self._member.number
        for number, told in await self._look("matching", query, matches["silent"]):
            told["worker"] = number
            matches["processes"].append(told)
        matches["processes"].sort(key=lambda each: each["worker"] or 0)
        return matches

    async def _look(
        self, path: str, query: Query, silent: list[str]
    ) -> list[tuple[int, Any]]:
        """Have the others look at all their jobs; those that do not go into `silent`."""
        sent = packed_query(query)
        names = [name for name in self._names() if self._is_other(name)]
        answers = await asyncio.gather(
            *(self._in_time(name, path, sent) for name in names)
        )
        for answer in answers:
            if answer.trouble is not None and answer.trouble is not Trouble.GONE:
                silent.append(_sentence(answer))
        return [
            (answer.name.number, answer.data["told"])
            for answer in answers
            if answer.trouble is None
        ]

    async def _in_time(self, name: SocketName, path: str, data: object) -> Answer:
        try:
            async with asyncio.timeout(LOOK):
                return await ask(name, self._address(name), self._path(path), data)
        except TimeoutError:
            return Answer(name, trouble=Trouble.SLOW)

    # -- what one knows -----------------------------------------------------------------

    async def job(self, address: str) -> data.JobDetails:
        called, _, job_id = address.partition("-")
        if called == process_name():
            details = await self._here.job(address)
            details["job"]["worker"] = self._member.number
            return details
        name = self._find(called, f"Job {job_id}")
        path = f"{self._path('job')}?{urlencode({'address': address})}"
        answer = await self._patience.ask(name, self._address(name), path)
        now = asyncio.get_running_loop().time()
        if answer.trouble is None:
            told: data.JobDetails = _told(answer)
            told["job"]["worker"] = name.number
            self._said[address] = told, now
            self._said.move_to_end(address)
            if len(self._said) > MOST_SAID:
                self._said.popitem(last=False)
            return told
        if answer.trouble is Trouble.GONE or address not in self._said:
            raise _no_answer(answer, f"Job {job_id}")
        details, said_at = self._said[address]
        silence = f"{_sentence(answer)}: this is what it said {ago(now - said_at)}"
        return {**details, "can_be_cancelled": False, "silence": silence}

    # -- what is done -------------------------------------------------------------------

    async def cancel(self, address: str, visitor: Visitor) -> data.Outcome:
        called, _, job_id = address.partition("-")
        return await self._act(
            called,
            f"Job {job_id}",
            lambda: self._here.cancel(address, visitor),
            "cancel",
            {"address": address},
            visitor,
        )

    async def cancel_matching(
        self, query: Query, process_name: str, until: float, visitor: Visitor
    ) -> data.Outcome:
        return await self._act(
            process_name,
            "",
            lambda: self._here.cancel_matching(query, process_name, until, visitor),
            "cancel-matching",
            {"query": packed_query(query), "process": process_name, "until": until},
            visitor,
        )

    async def hold(self, process_name: str, visitor: Visitor) -> data.Outcome:
        return await self._act(
            process_name,
            "",
            lambda: self._here.hold(process_name, visitor),
            "hold",
            {"process": process_name},
            visitor,
        )

    async def release(self, process_name: str, visitor: Visitor) -> data.Outcome:
        return await self._act(
            process_name,
            "",
            lambda: self._here.release(process_name, visitor),
            "release",
            {"process": process_name},
            visitor,
        )

    async def change_limit(
        self,
        process_name: str,
        before: int | None,
        limit: int | None,
        visitor: Visitor,
    ) -> data.Outcome:
        return await self._act(
            process_name,
            "",
            lambda: self._here.change_limit(process_name, before, limit, visitor),
            "limit",
            {"process": process_name, "before": before, "limit": limit},
            visitor,
        )

    async def _act(
        self,
        called: str,
        what: str,
        here: Callable[[], Awaitable[data.Outcome]],
        path: str,
        sent: dict[str, Any],
        visitor: Visitor,
    ) -> data.Outcome:
        """Have the process of this name do it: soon, or never."""
        outcome: data.Outcome
        if called == process_name():
            number, outcome = self._member.number, await here()
        else:
            name = self._find(called, what or "That process")
            answer = await order(
                name,
                self._address(name),
                self._path(path),
                {**sent, "visitor": packed_visitor(visitor)},
            )
            if answer.trouble is not None:
                return {"done": False, "says": _not_done(answer)}
            number, outcome = name.number, _told(answer)
        return {"done": outcome["done"], "says": f"Worker {number}: {outcome['says']}"}

    # -- who is there -------------------------------------------------------------------

    def _names(self) -> list[SocketName]:
        place = self._member.place
        return [] if place is None else place.folder.sockets()

    def _is_other(self, name: SocketName) -> bool:
        own = self._member.place
        return own is not None and name != own.name and foreign(name, own.name) is None

    def _find(self, called: str, what: str) -> SocketName:
        for name in self._names():
            if name.called == called and self._is_other(name):
                return name
        raise NoSuchJob(
            f"{what} is of a worker that has ended, or was restarted"
            if what.startswith("Job")
            else "Nothing was done there: that worker has ended, or was restarted. Go "
            "back and look again"
        )

    def _address(self, name: SocketName) -> str:
        place = self._member.place
        # The place may be gone since the name was read.
        return "" if place is None else place.folder.address(str(name))

    def _path(self, path: str) -> str:
        return f"{self._member.path}/{path}"


def _voice(answer: Answer, query: Query) -> Voice | None:
    if answer.trouble is not None:
        return None
    try:
        return Voice(answer.name.number, *answer.data.about(str(query)))
    except LookupError:  # it was not asked
        return None


def _silent(answer: Answer) -> data.Worker:
    trouble = answer.trouble or Trouble.SLOW
    return {
        "number": answer.name.number,
        "trouble": _WORDS.get(trouble, trouble.value),
        "process": None,
        "now": None,
    }


def _sentence(answer: Answer) -> str:
    worker = _silent(answer)
    return f"Worker {worker['number']} {worker['trouble']}"


def _not_done(answer: Answer) -> str:
    if answer.trouble is Trouble.LATE:
        return _sentence(answer)
    if answer.trouble is Trouble.SLOW:
        return f"{_sentence(answer)}: if it has not begun by now, nothing will be done"
    if answer.trouble in (Trouble.GONE, Trouble.NOTHING):
        return f"{_sentence(answer)}: nothing was done"
    return f"{_sentence(answer)}: look whether it was done"


def _told(answer: Answer) -> Any:
    """Return what was told.

    Raises:
        NoSuchJob: the request was refused.
    """
    if "refused" in answer.data:
        raise NoSuchJob(answer.data["refused"])
    return answer.data["told"]


def _no_answer(answer: Answer, what: str) -> NoSuchJob:
    sentence = f"{what} is of worker {answer.name.number}, which "
    trouble = _silent(answer)["trouble"]
    if answer.trouble is Trouble.GONE:
        return NoSuchJob(f"{sentence}{trouble}")
    return NoAnswer(f"{sentence}{trouble}")
