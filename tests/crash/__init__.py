"""Durable jobs under kill -9: nothing that was accepted is lost.

``python -m tests.crash``, or ``make crash``, does all of it; test_crash.py does less.

- process.py: an application that puts and runs jobs, and writes down what it has done
- points.py: the places where such a process can be made to die
- ledger.py: what was written down, and the verdict on it
- kills.py: kills at random moments, of one process or of several on one file
"""
