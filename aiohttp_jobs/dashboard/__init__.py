"""The dashboard: what runs, what waits, what failed and why, on one page.

Needs the extra: ``pip install aiohttp-jobs[dashboard]``.
"""

# A map, in the order to read it:
#
#   access.py    who may do what, and that other sites may do nothing
#   record.py    what is kept of a job that is over
#   words.py     durations, states and stacks as people read them
#   history.py   the observer that keeps it, and the figures of the last minutes
#   charts.py    the figures as bars of an SVG
#   details.py   what a job's own page shows
#   overview.py  what the first page shows: filters, tables, paging
#   stream.py    live pages: server-sent events, bounded, ended at shutdown
#   views.py     the handlers
#   app.py       setup_dashboard: puts the above into an application

from .access import Access

try:
    from .app import setup_dashboard
except ModuleNotFoundError as error:
    if error.name not in ("aiohttp_jinja2", "jinja2"):
        raise
    raise ImportError(
        "The dashboard needs aiohttp-jinja2: install aiohttp-jobs[dashboard]"
    ) from error

__all__ = ("Access", "setup_dashboard")
