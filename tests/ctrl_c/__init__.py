"""Ctrl-C at each line of the core, and the books afterwards.

``python -m tests.ctrl_c`` runs it and prints what it finds; ``--help`` lists the options.
The modules:

    press.py      one run of a scenario: interrupted at one place, then checked
    scenarios.py  what is interrupted
"""
