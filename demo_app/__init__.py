"""A small shop that shows what aiohttp_jobs is for: ``python -m demo_app``."""

# A map of the shop, in the order to read it:
#
#   shop.py         orders in SQLite: charge, wait for the bank, record
#   mail.py         mail over SMTP, and the server that receives it
#   forms.py        what visitors type, and what is wrong with it
#   views.py        the handlers: @atomic, spawn, and spawn(after_response=True)
#   experiment.py   clients that order over real sockets and hang up half-way
#   app.py          make_app: puts the above into an application
#   serving.py      runs it until Ctrl-C, and says what is left to be done then
#   __main__.py     the command line
