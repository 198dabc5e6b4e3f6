"""Pages: data as HTML, with addresses that are right wherever the page is shown."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp_jinja2
import jinja2
from aiohttp import web

from . import charts, words
from .access import VISITOR, Access, Visitor
from .part import LOOKED_AT
from .query import SINCE
from .sections import Kept
from .stream import Live

__all__ = ("Links", "Pages")

_HERE: Final = Path(__file__).parent
_ENVIRONMENT: Final = web.AppKey("aiohttp_jobs.dashboard.environment", jinja2.Environment)


class Links:
    """Addresses of the dashboard's pages, from their named routes.

    They are relative, so a proxy may show the application below any path, without saying
    so.

    Args:
        app: the dashboard's application.
        page: the path of the page that the addresses are for.
    """

    def __init__(self, app: web.Application, page: str) -> None:
        self._router = app.router
        # All pages are below the first one, whose address ends with a slash.
        self._top = app.router["overview"].url_for().raw_path
        self._to_top = "../" * page.removeprefix(self._top).count("/")
        # What is before and after a job's address in a path, by the name of the route.
        self._around: dict[str, tuple[str, str]] = {}

    def to(self, name: str, **parts: str) -> str:
        """Return the address of the route of this name, with these parts in its path."""
        path = self._router[name].url_for(**parts).raw_path
        return self._to_top + path.removeprefix(self._top) or "./"

    def to_job(self, address: str, name: str = "job") -> str:
        """Return the address of a job's own page, or of another route of the job."""
        if name not in self._around:
            before, _, after = self.to(name, address="0-0").partition("0-0")
            self._around[name] = before, after
        before, after = self._around[name]
        return f"{before}{address}{after}"


class Pages:
    """Renders the templates.

    Args:
        app: the dashboard's application.
        title: what the application is called.
        home: where its own pages are; None for no link there.
    """

    def __init__(self, app: web.Application, title: str, home: str | None) -> None:
        self._app = app
        self._environment = environment = aiohttp_jinja2.setup(
            app,
            # A separate key: the application around it may use this library, too.
            app_key=_ENVIRONMENT,
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            undefined=jinja2.StrictUndefined,
            default_helpers=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        filters: dict[str, Any] = environment.filters
        filters.update(
            ago=words.ago,
            breakable=words.breakable,
            clock_time=words.clock_time,
            count_of=words.count_of,
            duration=words.duration,
            minute=words.minute,
            number=words.number,
            roughly=words.roughly,
            since=words.since,
            state_word=words.state_word,
            without=words.without,
        )
        names: dict[str, Any] = environment.globals
        names.update(
            title=title,
            home=home,
            outcomes=words.OUTCOMES,
            since_words=SINCE,
            charts=charts,
            looked_at=LOOKED_AT,
        )

    def links(self, name: str, **parts: str) -> Links:
        """Return the addresses as the page of this route needs them."""
        return Links(self._app, self._app.router[name].url_for(**parts).raw_path)

    def html(
        self,
        template: str,
        visitor: Visitor,
        links: Links,
        context: Mapping[str, Any],
    ) -> str:
        """Render a page, or a section of it."""
        return self._environment.get_template(template).render(
            context, **_common(visitor, links)
        )

    def page(
        self,
        template: str,
        request: web.Request,
        links: Links,
        context: Mapping[str, Any],
        status: int = 200,
    ) -> web.Response:
        """Answer with a page."""
        html = self.html(template, request[VISITOR], links, context)
        return web.Response(
            body=words.encode(html),
            status=status,
            content_type="text/html",
            charset="utf-8",
        )

    def live(
        self,
        templates: Mapping[str, str],
        visitor: Visitor,
        links: Links,
        context: Mapping[str, Any],
    ) -> Live:
        """Render the sections of a live page, each by a template of its own."""
        return Live(
            context["at"],
            {
                name: self.html(template, visitor, links, context)
                for name, template in templates.items()
            },
        )

    def sections(
        self,
        template: str,
        visitor: Visitor,
        links: Links,
        context: Mapping[str, Any],
        kept: Kept,
        shown: Mapping[str, object],
    ) -> dict[str, str]:
        """Render sections by macros of a template, named ``show_…`` after the sections.

        Args:
            kept: what was rendered of this page before.
            shown: the sections, with all that they show, as for :meth:`Kept.section`.
        """
        # The template itself only runs when the first macro is needed.
        macros = functools.cache(
            lambda: self._environment.get_template(template).make_module(
                {**context, **_common(visitor, links), "kept": kept}
            )
        )

        def render(name: str) -> str:
            return str(getattr(macros(), f"show_{name}")())

        return {
            name: kept.section(name, what, partial(render, name))
            for name, what in shown.items()
        }

    def message(
        self,
        request: web.Request,
        links: Links,
        says: str,
        status: int = 200,
        back: str = "overview",
    ) -> web.Response:
        """Answer with a page that says a sentence, and leads back to this route."""
        context = {"says": says, "back": back}
        return self.page("message.html", request, links, context, status)


def _common(visitor: Visitor, links: Links) -> dict[str, Any]:
    return {"links": links, "may_manage": visitor.access is Access.MANAGE}
