"""What aiohttp_jobs costs, beside plain asyncio and aiojobs.

``python -m benchmarks`` prints tables; ``--help`` lists the options. The modules:

    measure.py    samples, taken in turns, and their ratios
    jobs.py       CPU time per job
    observers.py  the same when somebody is told of the jobs
    dashboard.py  the same when somebody looks at them
    many.py       the same with up to a million jobs pending
    memory.py     bytes per job
    server.py     the applications that are compared, in a process of their own
    client.py     the requests to them, and the server's CPU time for each
    report.py     tables, as text and as RST

The method, and what it guards against:

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
