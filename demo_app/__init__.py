"""A small shop that shows what aiohttp_jobs is for: ``python -m demo_app``."""

# A map of the shop, in the order to read it:
#
#   shop.py         orders in SQLite: charge, wait for the bank, record
#   outbox.py       the SMTP server that receives mail, and keeps each once
#   mail.py         the durable job that sends mail; a file or RabbitMQ keeps it
#   rabbitmq.py     RabbitMQ as that store
#   forms.py        what visitors type, and what is wrong with it
#   views.py        the handlers: @atomic, spawn, and spawn(after_response=True)
#   experiment.py   clients that order over real sockets and hang up half-way
#   app.py          make_app: puts the above into an application
#   serving.py      runs it until Ctrl-C, and says what is left to be done then
#   supervisor.py   starts the server again when it was killed
#   __main__.py     the command line
