"""Durable jobs under kill -9: nothing that was accepted is lost.

``python -m tests.crash``, or ``make crash``, runs all of it; test_crash.py runs less.

- process.py: an application that puts and runs jobs, and writes down what it has done
- points.py: the places where such a process can be made to die
- ledger.py: the records of these processes, and the verdict on them
- kills.py: kills at random moments, of one process or of several on one file
"""
