"""What aiohttp_jobs costs, beside plain asyncio and aiojobs.

``python -m benchmarks`` prints tables; ``--help`` lists the options. The modules:

    instructions.py  instructions per job and per request
    counted.py       what runs while these are counted
    measure.py       samples, taken in turns, and their ratios
    jobs.py          CPU time per job
    observers.py     the same when somebody is told of the jobs
    dashboard.py     the same when somebody looks at them
    workers.py       CPU time of workers that are looked at together
    sharing.py       one of these, in a process of its own
    many.py          CPU time per job with up to a million pending
    memory.py        bytes per job
    durable.py       durable jobs in a file, beside Huey's
    server.py        the applications that are compared, in a process of their own
    client.py        the requests to them, and the server's CPU time for each
    report.py        tables, as text and as RST

Where both instructions and times are told, instructions decide: on a machine that is busy
with other things times scatter, these do not. How they are counted:

* Of a run with many jobs and one with few, the difference: so it has neither the start
  nor the end in it.
* With the garbage collector off: how often it runs, and what it has to visit, depends on
  what else there is. It is on where times are measured.
* The server always finds the same number of requests when it looks. By chance it would
  find now fewer, now more, which share a turn of the loop.

How times are measured, and what each point guards against:

* CPU time of the process, not wall time: the machine is busy with other things too.
* In rounds, A B C, B C A, C A B: a machine that slows down half-way slows down all alike,
  and whatever one variant leaves behind (heap, caches) does not always meet the same one.
* A ratio is the median of the rounds' own ratios, so each compares neighbours in time.
  The quartiles beside it tell how far to trust it.
* ``gc.collect()`` before each sample, outside of the clock; during the sample the
  collector runs as it does in production: objects that it has to visit are a cost.
* All variants run the same coroutine functions and hand them over in the way that their
  documentation shows.
"""
