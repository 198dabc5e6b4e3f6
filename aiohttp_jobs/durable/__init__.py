"""Durable jobs: they survive the process, and with a broker the machine.

``setup_durable(app, "jobs.sqlite", tasks=[...])`` after ``setup(app)``, then ``await
spawn_durable(request, task, ...)``: the job is on the disk when that returns.
"""

from aiohttp_jobs.core.errors import StoreUnavailable

from .alone import run_worker
from .attempt import CurrentDurable, current_durable
from .envelope import Envelope
from .kept import DurableStatistics, Inspectable, KeptJob, Place
from .setup import DURABLE, Durable, setup_durable, spawn_durable
from .sqlite import SQLiteStore
from .store import Delivery, Store
from .task import GiveUp, Order, Task, backoff, durable

__all__ = (
    "DURABLE",
    "CurrentDurable",
    "Delivery",
    "Durable",
    "DurableStatistics",
    "Envelope",
    "GiveUp",
    "Inspectable",
    "KeptJob",
    "Order",
    "Place",
    "SQLiteStore",
    "Store",
    "StoreUnavailable",
    "Task",
    "backoff",
    "current_durable",
    "durable",
    "run_worker",
    "setup_durable",
    "spawn_durable",
)
