"""Lets the processes of one application on one machine find and ask each other."""
