"""What aiohttp_jobs costs, compared with plain asyncio and aiojobs.

``python -m benchmarks`` prints tables; ``--help`` lists the options. The modules:

    instructions.py  instructions per job and per request
    counted.py       the process whose instructions are counted
    measure.py       samples, taken in turns, and their ratios
    jobs.py          CPU time per job
    observers.py     the same with observers
    dashboard.py     the same with a dashboard that somebody looks at
    workers.py       CPU time of workers on one dashboard
    sharing.py       one of these workers, in a process of its own
    many.py          CPU time per job with up to a million pending
    memory.py        bytes per job
    durable.py       durable jobs in a file, compared with Huey's
    server.py        the applications that are compared, in a process of their own
    client.py        the requests to them, and the server's CPU time for each
    report.py        tables, as text and as RST

Where both instructions and times are measured, instructions decide: on a machine that is
busy with other things, times scatter and instructions do not. How they are counted:

* A figure is the difference between a run with many jobs and one with few, so it includes
  neither the start nor the end.
* The garbage collector is off: how often it runs, and what it has to visit, depends on
  what else there is. It is on where times are measured.
* The server always finds the same number of requests when it looks. Left to chance, it
  would find sometimes fewer and sometimes more, which share a turn of the loop.

How times are measured, and what each point guards against:

* CPU time of the process, not wall time: the machine is busy with other things too.
* In rounds, A B C, B C A, C A B: a machine that slows down half-way affects all variants
  alike, and whatever one leaves behind (heap, caches) does not always affect the same
  one.
* A ratio is the median of the rounds' own ratios, so each compares neighbours in time.
  The quartiles beside it show how far to trust it.
* ``gc.collect()`` before each sample, outside of the measured time; during the sample the
  collector runs as it does in production: objects that it has to visit are a cost.
* All variants run the same coroutine functions and spawn them in the way that their
  documentation shows.
"""
