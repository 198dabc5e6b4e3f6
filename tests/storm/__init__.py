"""A storm: a real server, hundreds of misbehaving clients, and SIGTERM in the middle.

``python -m tests.storm`` runs it and prints the results; ``--help`` lists the options.
The seed and the number of a request decide what happens to it, so a seed repeats a storm,
except for the machine's timing. The modules:

    plan.py      the plan for each request
    ledger.py    the database to which handlers and jobs write what they do
    jobs.py      the background jobs: they fail, hang, and swallow their cancellation
    handlers.py  the handlers: plain, atomic, and those that spawn
    server.py    the application, in a process of its own
    crowd.py     the clients
    evidence.py  what ledger, log and clients say about a storm
    verdict.py   the checks of this evidence, and the figures
    run.py       one storm from start to verdict
"""
