"""The dashboard: what runs, what waits, what failed and why, on one page.

Needs the extra: ``pip install aiohttp-jobs[dashboard]``.
"""

# A map, in the order to read it. First the data, from which all else is made:
#
#   data.py      all that the pages show, as plain values
#   record.py    what is kept of a job that is over
#   words.py     durations, states and times as people read them
#   places.py    lines of code, and which are the application's own
#   process.py   the name of this process, and the addresses of its jobs
#   kinds.py     failures that are the same, kept together
#   tallies.py   how many jobs of each coroutine there are, and how long they run
#   history.py   the observer that keeps all this, and the figures of the last minutes
#   query.py     what a visitor wants to see
#   rows.py      a job as a row of a table
#   part.py      what one process contributes to the first page
#   pieces.py    the same, without what was told before
#   overview.py  the first page, put together: figures, failures, coroutines, tables
#   details.py   what a job's own page shows
#
# Who may see it, and what they may do:
#
#   sites.py     other sites may do nothing
#   access.py    who may do what, and who that is
#   steering.py  what may be done to jobs and the queue, and the log of it
#   source.py    what the pages get data from: this process, or all
#   answering.py what this process tells the others, and does for them
#   workers.py   the source that knows what all processes of the application know
#
# Durable jobs, which belong to the store and not to a process:
#
#   durable_data.py     what their pages show, as plain values
#   durable_source.py   asks the store, and retries or drops dead jobs
#
# What is made from it:
#
#   charts.py    the figures as bars and lines of an SVG
#   sections.py  the sections of a live page, each rendered only when it has changed
#   stream.py    live pages: server-sent events, bounded, ended at shutdown
#   pages.py     data as HTML, and addresses
#   text.py      a traceback as text, to be copied
#   views.py     the handlers that show something
#   actions.py   the handlers that do something
#   api.py       what the pages show, as JSON
#   durable_views.py    the same for durable jobs: the handlers that show, and JSON
#   durable_actions.py  and the handlers that do
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
