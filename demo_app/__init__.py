"""A small shop that shows what aiohttp_jobs is for: ``python -m demo_app``."""

# A map of the shop, in the order to read it:
#
#   shop.py         orders in SQLite: charge, wait for the bank, record
#   outbox.py       the SMTP server that receives mail, and keeps each once
#   mail.py         the durable job that sends mail; a file or RabbitMQ keeps it
#   rabbitmq.py     RabbitMQ as that store
#   counting.py     page views, by spawn(after_response=True)
#   forms.py        what visitors type, and what is wrong with it
#   source.py       the code that runs, as the pages show it
#   pages.py        what all pages have in common
#   access.py       who may see the dashboard
#   experiment.py   clients that order over real sockets and hang up half-way
#   tour.py         the steps of the tour: a kill, a job that fails, one that hangs
#   views.py        the handlers of the shop: @atomic, spawn_durable
#   app.py          make_app: puts the above into an application
#   serving.py      runs it until Ctrl-C, and says what is left to be done then
#   supervisor.py   starts the server again when it was killed
#   __main__.py     the command line
