"""A small shop that shows what aiohttp_jobs is for: ``python -m demo_app``."""

# A map of the shop, in the order to read it:
#
#   shop.py         orders in SQLite: charge, wait for the bank, record
#   outbox.py       the SMTP server that receives mail and keeps one copy of each
#   mail.py         the durable job that sends mail, kept in a file or by RabbitMQ
#   rabbitmq.py     RabbitMQ as that store
#   counting.py     counts page views with spawn(after_response=True)
#   forms.py        what visitors type, and what is wrong with it
#   source.py       the code of the demo, as its pages show it
#   pages.py        what all pages have in common
#   access.py       who may see the dashboard
#   experiment.py   clients that order over real sockets and hang up half-way
#   tour.py         the steps of the tour: a kill, a job that fails, one that hangs
#   views.py        the handlers of the shop: @atomic, spawn_durable
#   app.py          make_app: builds the application from the above
#   serving.py      runs it until Ctrl-C, then says which jobs are left
#   supervisor.py   restarts the server when it is killed
#   __main__.py     the command line
