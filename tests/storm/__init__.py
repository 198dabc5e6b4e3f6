"""A storm: a real server, hundreds of clients that misbehave, and SIGTERM in the middle.

``python -m tests.storm`` runs it and prints what came of it; ``--help`` lists the
options. The seed and the number of a request decide what happens to it, so a seed repeats
a storm, but for the machine's timing. The modules:

    plan.py      what each request is to be
    ledger.py    the database, to which handlers and jobs write what they do
    jobs.py      the background jobs: they fail, hang, and swallow their cancellation
    handlers.py  the handlers: plain, atomic, and those that spawn
    server.py    the application, in a process of its own
    crowd.py     the clients
    evidence.py  what ledger, log and clients tell of a storm
    verdict.py   what must not be found in it, and the figures
    run.py       one storm from start to verdict
"""
