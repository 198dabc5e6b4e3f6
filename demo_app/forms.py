"""Forms: what visitors type, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from .shop import ARTICLES, Order

__all__ = ("MOST_CLIENTS", "Form", "read_form")

MOST_CLIENTS: Final = 500
MOST_AT_ONCE: Final = 20

# Narrower than the standards: what SMTP takes without extensions.
_ADDRESS: Final = re.compile(
    r"[A-Za-z0-9_'+-]+(\.[A-Za-z0-9_'+-]+)*"
    r"@[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)+"
)


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form as typed, and a message for each invalid one."""

    values: Mapping[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def order(self) -> Order | None:
        """Return the order; or None, with messages in `errors`."""
        customer = self._address("customer")
        article = ARTICLES.get(self.values.get("article", ""))
        if article is None:
            self.errors["article"] = "Choose one of the articles."
        quantity = self._number("quantity", 1, MOST_AT_ONCE)
        if self.errors or article is None:
            return None
        slow_bank = bool(self.values.get("slow_bank"))
        return Order(customer, article, quantity, slow_bank)

    def sign_up(self) -> tuple[str, str] | None:
        """Return the name and the address of a new customer; or None."""
        name = self.values.get("name", "")
        if not name:
            self.errors["name"] = "Enter the name to use in the mail."
        elif len(name) > 60 or not name.isprintable():
            self.errors["name"] = "Enter a name of at most 60 characters, on one line."
        address = self._address("email")
        return None if self.errors else (name, address)

    def experiment(self) -> tuple[int, int | None] | None:
        """Return the number of clients and the seed, if one is given; or None."""
        clients = self._number("clients", 1, MOST_CLIENTS)
        seed = self._number("seed", 0, 999_999) if self.values.get("seed") else None
        return None if self.errors else (clients, seed)

    def _address(self, name: str) -> str:
        value = self.values.get(name, "")
        if not value:
            self.errors[name] = "Enter an e-mail address."
        elif len(value) > 120 or not _ADDRESS.fullmatch(value):
            self.errors[name] = "This is not an e-mail address; try ann@example.org."
        return value

    def _number(self, name: str, least: int, most: int) -> int:
        value = self.values.get(name, "")
        if re.fullmatch(r"[0-9]{1,9}", value) and least <= int(value) <= most:
            return int(value)
        self.errors[name] = f"Enter a whole number from {least} to {most}."
        return 0


async def read_form(request: web.Request) -> Form:
    """Read the posted form.

    Raises:
        web.HTTPBadRequest: the body is not a form.
    """
    try:
        data = await request.post()
    except (ValueError, LookupError) as error:  # bad encoding, or unknown charset
        raise web.HTTPBadRequest(text="400: The form cannot be read") from error
    values = {
        name: value.strip() for name, value in data.items() if isinstance(value, str)
    }
    return Form(values)
